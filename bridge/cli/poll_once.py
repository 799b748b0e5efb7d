"""One poll of one room: as the service does it, or as a dry run that writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bridge.admin import poll as admin
from bridge.admin.poll import PollResult
from bridge.admin.read_only import ReadOnlyDatabase
from bridge.admin.rooms import origin_of
from bridge.cli.database import missing_file, open_database
from bridge.cli.output import print_message
from bridge.cli.settings import find_source
from bridge.config import Settings
from bridge.config.words import one_of, quoted
from bridge.db.engine import Database
from bridge.db.liveness import registered
from bridge.db.schema import ensure_schema, schema_state
from bridge.errors import NotFoundError, UsageError
from bridge.polling.poll_now import room_presence
from bridge.rules.presence import Failure, Presence, Snapshot, diff
from bridge.runtime import Runtime
from bridge.sources.kinds import open_source
from bridge.sources.protocol import SourceSettings

UNSAVED = "-"
"""The id of visits and sessions that a dry run did not store."""


def poll_room(settings: Settings, room_id: str, source: str | None, runtime: Runtime) -> PollResult:
    """Claim the room, ask its source, record the response.

    Raises:
        UsageError: there is no such source.
        NotFoundError: the room is not tracked, or there is no database yet.
        BridgeError: it cannot be polled now.
    """
    if source is not None:
        find_source(settings, source)
    with open_database(settings) as database:
        account = _source_of(settings, room_id, _tracked_source(database, settings, room_id, source))
        return asyncio.run(_poll(database, settings, account, room_id, runtime))


def preview_poll(settings: Settings, room_id: str, source: str | None, runtime: Runtime) -> PollResult:
    """Ask the source and compare with what is stored; nothing is written, not even a missing database.

    Raises:
        UsageError: the room is not tracked, and there are several sources to ask.
    """
    with _open_read_only(settings) as database:
        is_tracked = database is not None and database.read_now(origin_of, room_id, source) is not None
        stored = database.read_now(room_presence, room_id, source) if database and is_tracked else None
        account = (
            _source_of(settings, room_id, stored.source)
            if stored
            else find_source(settings, _likely_source(settings, room_id, source))
        )
        response, at = asyncio.run(_fetch(account, room_id, runtime)), runtime.now()
        if database and stored and isinstance(response, Snapshot):  # again, as T2 does it: after the response
            seen = [peer.peer_id for peer in response.peers]
            stored = database.read_now(room_presence, room_id, account.name, seen=seen)
    before, policy = Presence(), settings.polling.policy
    if stored is not None:
        missed = stored.leave_after_missed or policy.leave_after_missed
        before, policy = stored.presence, replace(policy, leave_after_missed=missed)
    result = PollResult(room_id=room_id, source=account.name, at=at, response=response, after=before)
    if isinstance(response, Failure):
        return result
    difference = diff(before, response, policy, at, lambda _: UNSAVED)
    return replace(result, after=difference.after, changes=difference.changes)


async def _fetch(account: SourceSettings, room_id: str, runtime: Runtime) -> Snapshot | Failure:
    source = open_source(account, runtime.now)
    try:
        return await source.fetch(room_id)
    finally:
        await source.aclose()


def _tracked_source(database: Database, settings: Settings, room_id: str, source: str | None) -> str:
    is_configured = any(spec.upstream_id == room_id and source in (None, spec.source) for spec in settings.rooms)
    if is_configured and database.read_now(origin_of, room_id, source) is None:
        raise NotFoundError(
            f"room {quoted(room_id)} is in the configuration, but no service has loaded it yet: start or reload the "
            "service, or use --dry-run"
        )
    return database.read_now(room_presence, room_id, source).source


def _source_of(settings: Settings, room_id: str, name: str) -> SourceSettings:
    """Return the source of a tracked room."""
    for account in settings.sources:
        if account.name == name:
            return account
    raise UsageError(
        f"room {quoted(room_id)}: its source {quoted(name)} is not in the configuration: add the source, or use "
        "`bridge rooms remove`"
    )


async def _poll(
    database: Database, settings: Settings, account: SourceSettings, room_id: str, runtime: Runtime
) -> PollResult:
    with registered(database) as worker:
        return await admin.poll_room(
            database,
            [account],
            room_id,
            account.name,
            settings=settings.polling,
            runtime=runtime,
            token=worker.new_token(),
            on_wait=lambda: print_message(f"{room_id} is being polled already: waiting for the end of that poll"),
        )


@contextmanager
def _open_read_only(settings: Settings) -> Iterator[Database | None]:
    """Open the database so that nothing can change it; None if it does not exist or is empty."""
    if missing_file(settings) is not None:
        yield None
        return
    database = ReadOnlyDatabase(settings.database.url)
    try:
        is_empty = database.read_now(schema_state).is_fresh
        if not is_empty:
            ensure_schema(database)
        yield None if is_empty else database
    finally:
        database.close()


def _likely_source(settings: Settings, room_id: str, source: str | None) -> str:
    """Return the source to ask about a room that is not tracked."""
    if source is not None:
        return source
    configured = {spec.source for spec in settings.rooms if spec.upstream_id == room_id}
    likely = sorted(configured or {account.name for account in settings.sources})
    if len(likely) > 1:
        raise UsageError(f"room {quoted(room_id)} is not tracked: name its source with --source, {one_of(likely)}")
    if not likely:
        raise UsageError("there is no source: add [sources.main] with its api_key to the configuration")
    return likely[0]
