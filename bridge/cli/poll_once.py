"""One poll of one room, for a person: carried out as the service does it, or only looked at (`--dry-run`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count

from bridge.admin.rooms import origin_of
from bridge.cli.options import find_account, missing_file, open_database
from bridge.cli.output import say
from bridge.config import Settings
from bridge.config.words import one_of, quoted
from bridge.db.engine import Database
from bridge.db.migrate import schema_state
from bridge.errors import BridgeError, NotFoundError, UsageError
from bridge.polling.poll_now import Busy, StoredRoom, claim_room, stored_room
from bridge.polling.poller import LEASE_MARGIN
from bridge.polling.record import ClaimedRoom, PolledRoom, Recorded, Skipped, record_polls
from bridge.rules.presence import Change, Failure, Presence, PresencePolicy, Snapshot, diff
from bridge.runtime import Runtime
from bridge.service import open_source
from bridge.sources.protocol import SourceSettings

LOOK_AGAIN_SECONDS = 0.1
UNSAVED = "unsaved"
"""What the ids of a dry run begin with: they name nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a poll brought: who is there `after` it, what has changed, how many events were written."""

    room_id: str
    source: str
    at: datetime
    response: Snapshot | Failure
    after: Presence
    changes: tuple[Change, ...] = ()
    event_count: int = 0


def poll_room(settings: Settings, room_id: str, source: str | None, runtime: Runtime) -> Seen:
    """Claim, ask, write down.

    Raises:
        NotFoundError: the room is not tracked, or there is no database yet.
        BridgeError: it cannot be polled now.
    """
    with open_database(settings) as database:
        account = find_account(settings, _tracked_source(database, settings, room_id, source))
        claimed = _claim(database, room_id, account, runtime)
        polled, recorded = _carry_out(database, settings, account, claimed, runtime)
        if recorded.fenced or isinstance(polled.response, Skipped):
            raise BridgeError(f"room {quoted(room_id)} was taken over meanwhile, so nothing was written: try again")
        after = database.read_now(stored_room, room_id, account.name).presence
    return Seen(
        room_id=room_id,
        source=account.name,
        at=polled.at,
        response=polled.response,
        after=after,
        changes=recorded.changes,
        event_count=recorded.event_count,
    )


def look_at_room(settings: Settings, room_id: str, source: str | None, runtime: Runtime) -> Seen:
    """What a poll would see and tell; nothing is written, not even a database that is not there.

    Raises:
        UsageError: it is not clear which source to ask.
    """
    stored = _stored(settings, room_id, source)
    account = find_account(settings, stored.source if stored else _likely_source(settings, room_id, source))
    response = asyncio.run(_ask(account, room_id, runtime))
    at = runtime.now()
    peers = () if isinstance(response, Failure) else response.peers
    stored = _stored(
        settings, room_id, account.name, seen=[peer.peer_id for peer in peers]
    )  # as T2: after the response
    before = stored.presence if stored else Presence()
    seen = Seen(room_id=room_id, source=account.name, at=at, response=response, after=before)
    if isinstance(response, Failure):
        return seen
    numbers = count(1)
    policy = _policy(settings, stored, room_id, account.name)
    difference = diff(before, response, policy, at, lambda prefix: f"{UNSAVED}_{prefix}_{next(numbers)}")
    return replace(seen, after=difference.after, changes=difference.changes)


async def _ask(account: SourceSettings, room_id: str, runtime: Runtime) -> Snapshot | Failure:
    source = open_source(account, runtime)
    try:
        return await source.fetch(room_id)
    finally:
        await source.aclose()


def _tracked_source(database: Database, settings: Settings, room_id: str, source: str | None) -> str:
    is_listed = any(spec.upstream_id == room_id and source in (None, spec.source) for spec in settings.rooms)
    if database.read_now(origin_of, room_id, source) is not None or not is_listed:
        return database.read_now(stored_room, room_id, source).source
    raise NotFoundError(
        f"room {quoted(room_id)} stands in the configuration, but no service has taken it up yet: start or reload "
        "the service, or read_health with --dry-run"
    )


def _claim(database: Database, room_id: str, account: SourceSettings, runtime: Runtime) -> ClaimedRoom:
    """Wait for whoever is asking about the room now; a claim whose owner has died lapses by itself."""
    token = runtime.new_token()
    for tries in count(1):
        now = runtime.now()
        claimed = database.write_now(
            claim_room,
            room_id,
            account.name,
            requests_per_second=account.requests_per_second,
            now=now,
            lease_until=now + 2 * account.timeout + LEASE_MARGIN,
            token=token,
        )
        if not isinstance(claimed, Busy):
            return claimed
        if tries == 1:
            say(f"{room_id} is being polled at this moment: waiting for that to end")
        time.sleep(LOOK_AGAIN_SECONDS)
    raise AssertionError  # count() does not end


def _carry_out(
    database: Database, settings: Settings, account: SourceSettings, claimed: ClaimedRoom, runtime: Runtime
) -> tuple[PolledRoom, Recorded]:
    started_at = runtime.now()
    response: Snapshot | Failure | Skipped = Skipped(until=started_at)
    try:
        response = asyncio.run(_ask(account, claimed.upstream_id, runtime))
    finally:  # given up by Ctrl-C, the room is free at once: the service need not wait for the claim to lapse
        polled = PolledRoom(
            room=claimed, started_at=started_at, at=runtime.now(), response=response, jitter=runtime.jitter()
        )
        (recorded,) = database.write_now(record_polls, [polled], settings=settings.polling, new_id=runtime.new_id)
    return polled, recorded


def _stored(settings: Settings, room_id: str, source: str | None, *, seen: Collection[str] = ()) -> StoredRoom | None:
    """The room as stored, if it is tracked in a database that is there."""
    if missing_file(settings) is not None:
        return None
    database = Database(settings.database.url)
    try:
        if database.read_now(schema_state).is_fresh:
            return None
    finally:
        database.close()
    with open_database(settings) as database:
        if database.read_now(origin_of, room_id, source) is None:
            return None
        return database.read_now(stored_room, room_id, source, seen=seen)


def _likely_source(settings: Settings, room_id: str, source: str | None) -> str:
    """Whom to ask about a room that is not tracked."""
    configured = {spec.source for spec in settings.rooms if spec.upstream_id == room_id}
    likely = configured or {account.name for account in settings.sources}
    if source is not None:
        return source
    if len(likely) > 1:
        raise UsageError(f"say with --source whom to ask about {quoted(room_id)}: {one_of(sorted(likely))}")
    if not likely:
        raise UsageError("there is no source to ask: add [sources.main] with its api_key to the configuration")
    return likely.pop()


def _policy(settings: Settings, stored: StoredRoom | None, room_id: str, source: str) -> PresencePolicy:
    if stored is not None:
        missed = stored.leave_after_missed
    else:
        specs = (spec for spec in settings.rooms if (spec.upstream_id, spec.source) == (room_id, source))
        missed = next((spec.leave_after_missed for spec in specs), None)
    policy = settings.polling.policy
    return policy if missed is None else replace(policy, leave_after_missed=missed)
