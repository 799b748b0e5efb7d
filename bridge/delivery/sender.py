"""The sender: takes the cursors that owe something and works off their lines, one event after the other.

Order per room comes from working a line alone; concurrency comes from working many lines. While a delivered event is
being recorded the line's next one is already on its way, but never the one after that: a crash repeats at most two
events per line, in order, with the same ids and bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from types import MappingProxyType

import structlog

from bridge.db.batch import GroupCommit
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.delivery.claim import LEASE_MARGIN, ClaimedCursor, OwedEvent, Target, claim_cursors, release_cursors
from bridge.delivery.client import WebhookClient
from bridge.delivery.record import Settled, Settlement, Tried, Turn, settle
from bridge.delivery.redact import redact
from bridge.delivery.redeliver import (
    ClaimedRedeliveries,
    Redelivered,
    claim_redeliveries,
    record_redelivery,
    release_redeliveries,
)
from bridge.events.formats import Format, render
from bridge.rules.delivery import DeliveryPolicy, Outcome, PostResult, retry_redelivery
from bridge.rules.signing import Huddle01Secret, InvalidSecretError, Secret, parse_secret, sign
from bridge.runtime import Runtime
from bridge.workers import WorkerPool

SLOTS = 2048
SLOTS_PER_ENDPOINT = 512
"""How many of the slots one endpoint may take, so that one whose receivers hang leaves some to others."""
REDELIVERY_SLOTS = 32
CONFIRMED_FOR = timedelta(milliseconds=25)
"""How long a line may trust what the database last said of its endpoint: its state, its secret."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.delivery.sender")


class Sender:
    """Delivers what is owed to every endpoint, until stopped."""

    def __init__(
        self,
        database: Database,
        client: WebhookClient,
        policy: DeliveryPolicy,
        runtime: Runtime,
        *,
        cipher: SecretCipher,
        slots: int = SLOTS,
    ) -> None:
        self._database = database
        self._client = client
        self._policy = policy
        self._world = runtime
        self._vault = cipher
        self._settlements = GroupCommit(database, partial(settle, policy=policy, new_id=runtime.new_id))
        self._stopping = False
        self._pool: WorkerPool[ClaimedCursor] = WorkerPool(
            "send", slots=slots, claim=self._claim, work=self._work_off, release=self._release
        )
        # A pool of its own, with one line per endpoint: a replay of a million events takes no seat from live ones.
        self._replays: WorkerPool[ClaimedRedeliveries] = WorkerPool(
            "replay",
            slots=REDELIVERY_SLOTS,
            claim=self._claim_replays,
            work=self._work_off_replay,
            release=self._release_replays,
        )

    def wake(self) -> None:
        """Look for something that is owed."""
        for pool in (self._pool, self._replays):
            pool.wake()

    async def tick(self) -> int:
        """Work off what is due now, one claim of it; answers how many lines that were."""
        claimed = await self._pool.tick() + await self._replays.tick()
        for pool in (self._pool, self._replays):
            await pool.settle()
        return claimed

    async def run(self) -> None:
        """Deliver until `stop`."""
        await asyncio.gather(self._pool.run(), self._replays.run())

    async def stop(self, grace: float | None) -> int:
        """Stop claiming, finish what is in flight; answers how many lines were dropped (they are due again)."""
        self._stopping = True
        return sum(await asyncio.gather(self._pool.stop(grace), self._replays.stop(grace)))

    @property
    def busy(self) -> int:
        """How many lines are worked off."""
        return self._pool.busy

    def resize(self, slots: int) -> None:
        """Work off so many lines at once from now on."""
        self._pool.resize(slots)

    async def _claim(self, slots: int) -> Sequence[ClaimedCursor]:
        return await self._database.write(
            claim_cursors,
            slots=slots,
            share=SLOTS_PER_ENDPOINT,
            working_on=Counter(cursor.target.key for cursor in self._pool.items),
            now=self._world.now(),
            timeout=self._policy.timeout,
            token=self._world.new_token(),
            cipher=self._vault,
        )

    async def _release(self, cursors: Sequence[ClaimedCursor]) -> None:
        await self._database.write(release_cursors, cursors, self._world.now())

    async def _work_off(self, cursor: ClaimedCursor) -> None:
        if not cursor.events:
            await self._settle(cursor, cursor.acked, None, goes_on=False)
            return
        acked = acked_before = cursor.acked
        lease_until = cursor.lease_until
        timeout = cursor.target.timeout or self._policy.timeout
        recording: asyncio.Task[tuple[Settled, datetime]] | None = None
        confirmed_at, may_go_on = self._world.now(), True
        for event in cursor.events:
            started_at = self._world.now()
            if not may_go_on or started_at + timeout > lease_until:
                break  # somebody asked for quiet, or we were held up for so long that another may have this line by now
            result = await deliver(self._client, cursor.target, event, at=started_at, limit=timeout)
            if recording is not None:
                settled, confirmed_at = await recording
                if not settled.keeps_claim:
                    break
                may_go_on = settled.may_go_on
            now = self._world.now()
            lease_until = now + timeout + LEASE_MARGIN
            goes_on = may_go_on and event is not cursor.events[-1] and not self._stopping
            is_next_sent = goes_on and result.outcome is Outcome.DELIVERED and now - confirmed_at < CONFIRMED_FOR
            tried = Tried(event=event, result=result, started_at=started_at)
            recording = asyncio.create_task(
                self._record(cursor, acked, tried, goes_on=goes_on, is_next_sent=is_next_sent, lease_until=lease_until)
            )
            acked_before, acked = acked, event.passes_to
            if not is_next_sent:
                settled, confirmed_at = await recording
                may_go_on = settled.may_go_on
        if recording is None:
            return
        settled, _ = await recording
        other = cursor.next_after(tried.event)
        if settled.gives_way and other is not None:
            await self._find_the_culprit(cursor, acked_before, tried.event, other, settled.retry_at, lease_until)

    async def _find_the_culprit(
        self,
        cursor: ClaimedCursor,
        acked: int,
        head: OwedEvent,
        other: OwedEvent,
        retry_at: datetime | None,
        lease_until: datetime,
    ) -> None:
        """Try another event of the line in place of one that may be poison; if it is accepted, that one a last time."""
        settled, lease_until = await self._try_out_of_turn(
            cursor, acked, other, Turn.BEHIND, lease_until=lease_until, retry_at=retry_at
        )
        if settled.has_last_word:
            is_next = other.sequence == head.passes_to + 1
            passes_to = other.passes_to if is_next else head.passes_to  # what was accepted need not come again
            await self._try_out_of_turn(
                cursor, acked, replace(head, passes_to=passes_to), Turn.LAST, lease_until=lease_until
            )

    async def _try_out_of_turn(
        self,
        cursor: ClaimedCursor,
        acked: int,
        event: OwedEvent,
        turn: Turn,
        *,
        lease_until: datetime,
        retry_at: datetime | None = None,
    ) -> tuple[Settled, datetime]:
        started_at, timeout = self._world.now(), cursor.target.timeout or self._policy.timeout
        if started_at + timeout > lease_until:
            return Settled(), lease_until  # held up for so long that another may have this line by now
        result = await deliver(self._client, cursor.target, event, at=started_at, limit=timeout)
        tried = Tried(event=event, result=result, started_at=started_at)
        until = self._world.now() + timeout + LEASE_MARGIN
        settled = await self._settle(
            cursor, acked, tried, goes_on=False, turn=turn, retry_at=retry_at, lease_until=until
        )
        _tell(cursor, tried, settled)
        return settled, until

    async def _record(
        self,
        cursor: ClaimedCursor,
        acked: int,
        tried: Tried,
        *,
        goes_on: bool,
        is_next_sent: bool,
        lease_until: datetime,
    ) -> tuple[Settled, datetime]:
        settled = await self._settle(
            cursor, acked, tried, goes_on=goes_on, is_next_sent=is_next_sent, lease_until=lease_until
        )
        _tell(cursor, tried, settled)
        return settled, self._world.now()

    async def _settle(
        self,
        cursor: ClaimedCursor,
        acked: int,
        tried: Tried | None,
        *,
        goes_on: bool,
        is_next_sent: bool = False,
        turn: Turn = Turn.ITS_OWN,
        retry_at: datetime | None = None,
        lease_until: datetime | None = None,
    ) -> Settled:
        settled = await self._settlements.submit(
            Settlement(
                cursor=cursor,
                acked=acked,
                tried=tried,
                goes_on=goes_on,
                is_next_sent=is_next_sent,
                turn=turn,
                retry_at=retry_at,
                at=self._world.now(),
                lease_until=lease_until or cursor.lease_until,
                jitter=self._world.jitter(),
            )
        )
        if settled.owes or settled.released or settled.disabled:
            self.wake()
        return settled

    async def _claim_replays(self, slots: int) -> Sequence[ClaimedRedeliveries]:
        return await self._database.write(
            claim_redeliveries,
            lines=slots,
            now=self._world.now(),
            timeout=self._policy.timeout,
            token=self._world.new_token(),
            cipher=self._vault,
        )

    async def _release_replays(self, lines: Sequence[ClaimedRedeliveries]) -> None:
        await self._database.write(release_redeliveries, lines, self._world.now())

    async def _work_off_replay(self, line: ClaimedRedeliveries) -> None:
        timeout = line.target.timeout or self._policy.timeout
        lease_until = line.lease_until
        for redelivery in line.redeliveries:
            at = self._world.now()
            if self._stopping or at + timeout > lease_until:
                await self._database.write(release_redeliveries, [line], at)
                return
            result = await deliver(
                self._client, line.target, redelivery.event, at=at, limit=timeout, marks={"bridge-replay": "true"}
            )
            now = self._world.now()
            lease_until = now + timeout + LEASE_MARGIN
            done = Redelivered(
                line=line,
                redelivery=redelivery,
                tried=Tried(event=redelivery.event, result=result, started_at=at),
                retry_at=retry_redelivery(result, redelivery.tries, self._policy, now=now, jitter=self._world.jitter()),
                lease_until=lease_until,
            )
            may_go_on = await self._database.write(record_redelivery, done)
            _tell_redelivery(done)
            if not may_go_on:
                return


async def deliver(
    client: WebhookClient,
    target: Target,
    event: OwedEvent,
    *,
    at: datetime,
    limit: timedelta,
    marks: Mapping[str, str] = MappingProxyType({}),
) -> PostResult:
    """Sign an event for a target and POST it once; the result repeats no secret of it.

    Args:
        client: Sends it.
        target: Where to, and with whose secrets.
        event: What.
        at: The time that is signed.
        limit: How long the attempt may take in all.
        marks: Headers that say that this is a redelivery, or a test.
    """
    result = await _post(client, target, event, at=at, limit=limit, marks=marks)
    return redact(result, target.secrets, target.headers.values())


async def _post(
    client: WebhookClient,
    target: Target,
    event: OwedEvent,
    *,
    at: datetime,
    limit: timedelta,
    marks: Mapping[str, str],
) -> PostResult:
    rendered = render(Format(target.style), event.body)
    headers = {
        **target.headers,
        **marks,
        "content-type": rendered.content_type,
        "webhook-id": event.public_id,
        "webhook-timestamp": str(int(at.timestamp())),
        **_signature(target, event.public_id, rendered.body, at),
    }
    return await client.post(target.url, headers=headers, body=rendered.body, timeout=limit)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Secret | None:
    """A secret, or None for one that cannot sign: any text could in the style `huddle01`, that an endpoint has left."""
    try:
        return parse_secret(text)
    except InvalidSecretError:
        return None


def _signature(target: Target, event_id: str, body: bytes, at: datetime) -> dict[str, str]:
    if target.style == Format.HUDDLE01:
        secret = Huddle01Secret(key=target.secrets[0].encode())
        return {"huddle01-signature": secret.sign(event_id, int(at.timestamp() * 1000), body)}
    secrets = [secret for secret in map(_parsed, target.secrets) if secret is not None]
    return {"webhook-signature": sign(secrets, webhook_id=event_id, timestamp=int(at.timestamp()), body=body)}


def _event_facts(target: Target, room_id: str | None, event: OwedEvent) -> dict[str, object]:
    return {
        "endpoint": target.name,
        "room": room_id,
        "event_id": event.public_id,
        "type": event.type,
        "sequence": event.sequence,
    }


def _facts(target: Target, room_id: str | None, tried: Tried) -> dict[str, object]:
    return {
        **_event_facts(target, room_id, tried.event),
        "outcome": tried.result.outcome.value,
        "status": tried.result.status,
        "duration_ms": round(tried.result.duration / timedelta(milliseconds=1), 1),
    }


def _tell_redelivery(done: Redelivered) -> None:
    result = done.tried.result
    speak = log.info if result.outcome is Outcome.DELIVERED else log.warning
    speak(
        "redelivery.attempted",
        detail=result.detail,
        retry_at=None if done.retry_at is None else done.retry_at.isoformat(),
        **_facts(done.line.target, done.redelivery.room_id, done.tried),
    )


def _tell(cursor: ClaimedCursor, tried: Tried, settled: Settled) -> None:
    """One line per attempt: loud when something is wrong."""
    result = tried.result
    facts = _facts(cursor.target, cursor.room_id, tried)
    if result.outcome is Outcome.DELIVERED and not settled.fenced:
        log.info("delivery.attempted", **facts)
        return
    log.warning(
        "delivery.attempted",
        cause=None if result.cause is None else result.cause.value,
        detail=result.detail,
        fenced=settled.fenced,
        dead_letter=settled.dead_letter,
        disabled=settled.disabled,
        retry_at=None if settled.retry_at is None else settled.retry_at.isoformat(),
        **facts,
    )
