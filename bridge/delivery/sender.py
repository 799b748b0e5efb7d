"""The sender: one delivery from top to bottom is claim → sign → POST → record.

A claimed cursor is worked on alone, one event after the other, which keeps the order of its room; concurrency comes
from many cursors. A crash repeats at most one event per cursor, with the same id and body.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType

from bridge.db.batch import GroupCommit
from bridge.db.cursors import Offer, TakenCursor
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.liveness import Worker
from bridge.delivery.claim import (
    Claim,
    ClaimedCursor,
    ClaimedRedeliveries,
    OwedEvent,
    claim_cursors,
    claim_redeliveries,
    claimed_at_once,
    release_cursors,
)
from bridge.delivery.client import WebhookClient
from bridge.delivery.plan import Attempt, Disabled, Fenced, Moved, Recorded, Removed, Report, Waiting
from bridge.delivery.record import record_attempts
from bridge.delivery.redact import redact
from bridge.delivery.redeliver import Redelivered, record_redelivery, release_redeliveries
from bridge.delivery.targets import Target, TargetCache
from bridge.events.formats import Format, render
from bridge.logs import get_logger
from bridge.metrics import Metrics
from bridge.rules.delivery import DeliveryPolicy, Outcome, PostResult, retry_redelivery
from bridge.rules.signing import Huddle01Secret, InvalidSecretError, Secret, parse_secret, sign
from bridge.runtime import Runtime
from bridge.workers import Claimed, WorkerPool

SLOTS = 256
"""Cursors that one sender works on at once."""
SLOTS_PER_ENDPOINT = 128
"""An endpoint that does not respond must leave slots to others."""
REDELIVERY_SLOTS = 32

log = get_logger("bridge.delivery")


class Sender:
    """Delivers what is owed to every endpoint until stopped."""

    def __init__(
        self,
        database: Database,
        client: WebhookClient,
        policy: DeliveryPolicy,
        runtime: Runtime,
        worker: Worker,
        *,
        cipher: SecretCipher,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._client = client
        self._policy = policy
        self._runtime = runtime
        self._worker = worker
        self._metrics = metrics or Metrics()
        self._targets = TargetCache(cipher)
        self._commits = GroupCommit(self._record_attempts)
        self._stopping = False
        self._pool: WorkerPool[ClaimedCursor] = WorkerPool(
            "send", slots=SLOTS, claim=self._claim, work=self._deliver_events, release=self._release
        )
        # Redeliveries have a pool of their own: a replay of a million events takes no slot from live ones.
        self._redelivery_pool: WorkerPool[ClaimedRedeliveries] = WorkerPool(
            "redeliver",
            slots=REDELIVERY_SLOTS,
            claim=self._claim_redeliveries,
            work=self._redeliver,
            release=self._release_redeliveries,
        )

    def wake(self, *, redeliveries: bool = False) -> None:
        """Claim live events soon, or redeliveries."""
        (self._redelivery_pool if redeliveries else self._pool).wake()

    @property
    def tokens(self) -> set[str]:
        """The tokens of its claims."""
        return {one.token for one in self._pool.claimed} | {one.token for one in self._redelivery_pool.claimed}

    def offer(self, token: str) -> Offer | None:
        """The cursors that this sender can take over of the events that polls are about to bring."""
        if self._pool.free_slots <= 0:
            return None
        return self._targets.offer(
            token=token,
            now=self._runtime.now(),
            slots=self._pool.free_slots,
            per_endpoint=SLOTS_PER_ENDPOINT,
            under_way=Counter(cursor.target.key for cursor in self._pool.items),
        )

    async def take_over(self, taken: Sequence[TakenCursor]) -> None:
        """Deliver cursors that were claimed as they were raised, under an offer of this sender."""
        targets = {cursor.endpoint_key: self._targets.get(cursor.endpoint_key) for cursor in taken}
        await self._pool.start(
            [claimed_at_once(cursor, target) for cursor in taken if (target := targets[cursor.endpoint_key])]
        )

    async def tick(self) -> int:
        """Claim what is due once and deliver it; returns the number of claims."""
        claimed = await self._pool.tick() + await self._redelivery_pool.tick()
        for pool in (self._pool, self._redelivery_pool):
            await pool.drain()
        return claimed

    async def run(self) -> None:
        """Deliver until `stop`."""
        await asyncio.gather(self._pool.run(), self._redelivery_pool.run())

    async def stop(self, grace: float) -> int:
        """Stop claiming, finish within `grace` seconds; returns the number of cancelled claims (they are due again)."""
        self._stopping = True
        return sum(await asyncio.gather(self._pool.stop(grace), self._redelivery_pool.stop(grace)))

    # Live events: claim → sign → POST → record

    async def _claim(self, slots: int) -> Claimed[ClaimedCursor]:
        under_way = Counter(cursor.target.key for cursor in self._pool.items)
        return await self._database.write(
            claim_cursors, self._terms(slots), per_endpoint=SLOTS_PER_ENDPOINT, under_way=under_way
        )

    async def _deliver_events(self, cursor: ClaimedCursor) -> None:
        """Deliver the events of a claimed cursor one by one, as long as each is acknowledged."""
        if not cursor.events:
            await self._record(cursor, cursor.acked, None, wants_next=False)
            return
        acked, timeout = cursor.acked, self._timeout(cursor.target)
        for event in cursor.events:
            if not self._worker.owns(cursor.token):
                await self._release([cursor])
                return
            at = self._runtime.now()
            result = await deliver(self._client, cursor.target, event, at=at, timeout=timeout)
            attempt = Attempt(event=event, result=result, started_at=at)
            is_first = not (cursor.is_retry and event is cursor.events[0])
            self._count(cursor.target, attempt, is_first=is_first)
            wants_next = event is not cursor.events[-1] and not self._stopping
            recorded = await self._record(cursor, acked, attempt, wants_next=wants_next)
            if not (isinstance(recorded, Moved) and recorded.keeps_claim):
                return
            acked = event.acks_to

    async def _record(
        self, cursor: ClaimedCursor, acked: int, attempt: Attempt | None, *, wants_next: bool
    ) -> Recorded:
        recorded = await self._commits.submit(
            Report(
                cursor=cursor,
                acked=acked,
                attempt=attempt,
                wants_next=wants_next,
                at=self._runtime.now(),
                jitter=self._runtime.jitter(),
            )
        )
        if not isinstance(recorded, Fenced) and not (isinstance(recorded, Moved) and not recorded.owes_more):
            self.wake()
        if attempt is not None:
            _log_attempt(cursor, attempt, recorded)
        return recorded

    async def _record_attempts(self, reports: Sequence[Report]) -> Sequence[Recorded]:
        return await self._database.write(record_attempts, reports, policy=self._policy, new_id=self._runtime.new_id)

    async def _release(self, cursors: Sequence[ClaimedCursor]) -> None:
        await self._database.write(release_cursors, cursors)

    # Redeliveries: the same, without order and without effect on the endpoint's health

    async def _claim_redeliveries(self, slots: int) -> Claimed[ClaimedRedeliveries]:
        return await self._database.write(claim_redeliveries, self._terms(slots))

    async def _redeliver(self, claimed: ClaimedRedeliveries) -> None:
        timeout = self._timeout(claimed.target)
        for redelivery in claimed.redeliveries:
            at = self._runtime.now()
            if self._stopping or not self._worker.owns(claimed.token):
                await self._release_redeliveries([claimed])
                return
            replayed = {"bridge-replay": "true"}
            result = await deliver(
                self._client, claimed.target, redelivery.event, at=at, timeout=timeout, marks=replayed
            )
            now, jitter = self._runtime.now(), self._runtime.jitter()
            attempt = Attempt(event=redelivery.event, result=result, started_at=at)
            self._count(claimed.target, attempt, is_first=False)
            done = Redelivered(
                claimed=claimed,
                redelivery=redelivery,
                attempt=attempt,
                retry_at=retry_redelivery(result, redelivery.tries, self._policy, now=now, jitter=jitter),
            )
            may_continue = await self._database.write(record_redelivery, done)
            _log_redelivery(done)
            if not may_continue:
                return

    async def _release_redeliveries(self, claimed: Sequence[ClaimedRedeliveries]) -> None:
        await self._database.write(release_redeliveries, claimed)

    def _count(self, target: Target, attempt: Attempt, *, is_first: bool) -> None:
        metrics, result = self._metrics.of_endpoint(target.metrics_label), attempt.result
        metrics.count_attempt(result.outcome.value, result.duration)
        if is_first and attempt.event.recorded_at is not None:
            metrics.observe_delay(attempt.started_at - attempt.event.recorded_at)

    def _terms(self, slots: int) -> Claim:
        return Claim(slots=slots, now=self._runtime.now(), token=self._worker.new_token(), targets=self._targets)

    def _timeout(self, target: Target) -> timedelta:
        return target.timeout or self._policy.timeout


async def deliver(
    client: WebhookClient,
    target: Target,
    event: OwedEvent,
    *,
    at: datetime,
    timeout: timedelta,  # noqa: ASYNC109 - a time-out is a result, not an exception
    marks: Mapping[str, str] = MappingProxyType({}),
) -> PostResult:
    """Sign an event for an endpoint and POST it once; the result repeats none of the endpoint's secrets.

    Args:
        client: sends it.
        target: the endpoint.
        event: to be delivered.
        at: the time that is signed.
        timeout: for the whole attempt.
        marks: headers that mark a redelivery or a test.
    """
    rendered = render(Format(target.format), event.body)
    headers = {
        **target.headers,
        **marks,
        "content-type": rendered.content_type,
        "webhook-id": event.public_id,
        "webhook-timestamp": str(int(at.timestamp())),
        **({} if event.chain is None else event.chain.headers),
        **_signature(target, event.public_id, rendered.body, at),
    }
    result = await client.post(target.url, headers=headers, body=rendered.body, timeout=timeout)
    return redact(result, target.secrets, target.headers.values())


def _signature(target: Target, event_id: str, body: bytes, at: datetime) -> dict[str, str]:
    if target.format == Format.HUDDLE01:
        secret = Huddle01Secret(key=target.secrets[0].encode())
        return {"huddle01-signature": secret.sign(event_id, int(at.timestamp() * 1000), body)}
    secrets = [secret for secret in map(_parsed, target.secrets) if secret is not None]
    return {"webhook-signature": sign(secrets, webhook_id=event_id, timestamp=int(at.timestamp()), body=body)}


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Secret | None:
    """A secret, or None for one that cannot sign: a previous secret from when the endpoint had style huddle01."""
    try:
        return parse_secret(text)
    except InvalidSecretError:
        return None


def _facts(target: Target, room_id: str | None, attempt: Attempt) -> dict[str, object]:
    return {
        "endpoint": target.name,
        "room": room_id,
        "event_id": attempt.event.public_id,
        "type": attempt.event.type,
        "sequence": attempt.event.sequence,
        "outcome": attempt.result.outcome.value,
        "status": attempt.result.status,
        "duration_ms": round(attempt.result.duration / timedelta(milliseconds=1), 1),
    }


def _log_attempt(cursor: ClaimedCursor, attempt: Attempt, recorded: Recorded) -> None:
    """One line per attempt: info if it delivered, else a warning with what happens next."""
    facts = _facts(cursor.target, cursor.room_id, attempt)
    if attempt.result.outcome is Outcome.DELIVERED and not isinstance(recorded, Fenced):
        log.info("delivery.attempted", **facts)
        return
    cause = attempt.result.cause
    log.warning(
        "delivery.attempted",
        cause=None if cause is None else cause.value,
        detail=attempt.result.detail,
        **_consequence(recorded),
        **facts,
    )


def _consequence(recorded: Recorded) -> dict[str, object]:
    match recorded:
        case Fenced():
            return {"fenced": True}
        case Moved(dead_letter=reason):
            return {} if reason is None else {"dead_letter": reason.value}
        case Waiting(retry_at=at):
            return {"retry_at": at.isoformat()}
        case Disabled(reason=reason):
            return {"disabled": reason.value}
        case Removed():
            return {"removed": True}


def _log_redelivery(done: Redelivered) -> None:
    result = done.attempt.result
    write = log.info if result.outcome is Outcome.DELIVERED else log.warning
    write(
        "redelivery.attempted",
        detail=result.detail,
        retry_at=None if done.retry_at is None else done.retry_at.isoformat(),
        **_facts(done.claimed.target, done.redelivery.room_id, done.attempt),
    )
