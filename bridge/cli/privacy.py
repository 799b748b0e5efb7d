"""`bridge privacy`: erase a person, hand out what is stored of one, delete what is old."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Annotated

import typer

from bridge.admin.retention import count_old_attempts, prune_attempts
from bridge.attendance.clocks import oldest_clock
from bridge.attendance.privacy import WAL_SECONDS, Erasure, Person, copy_of_person, erase_person
from bridge.attendance.retention import Pruned, count_prunable, prune_room, rooms_to_prune
from bridge.cli.database import open_database
from bridge.cli.options import ConfigOption
from bridge.cli.output import print_json, print_line
from bridge.cli.progress import progress_bar
from bridge.cli.settings import load_settings
from bridge.config import Settings
from bridge.db.engine import Database
from bridge.errors import UsageError
from bridge.events.wording import count_of
from bridge.runtime import Runtime, system_runtime
from bridge.sources.kinds import open_source

PersonOption = Annotated[str | None, typer.Option("--person", metavar="KEY", help="The person with this key.")]
PeerOption = Annotated[str | None, typer.Option("--peer", metavar="ID", help="The visits of this peer.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")]


def erase(
    person: PersonOption = None,
    peer: PeerOption = None,
    dry_run: DryRunOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Erase a person: names, keys, metadata, and the bodies of all events about them. It cannot be undone."""
    settings, runtime, wanted = load_settings(config), system_runtime(), _person(person, peer)
    with open_database(settings) as database:
        if not (dry_run or yes):
            _confirm(_erase(database, wanted, runtime, dry_run=True))
        erased = _erase(database, wanted, runtime, dry_run=dry_run)
        if not dry_run:
            database.truncate_wal(WAL_SECONDS)
    print_line(f"{'would erase ' if dry_run else 'erased '}{_counted(erased)}")


def export_person(person: PersonOption = None, peer: PeerOption = None, config: ConfigOption = None) -> None:
    """Print all that is stored of a person as JSON."""
    wanted = _person(person, peer)
    with open_database(load_settings(config)) as database:
        print_json(database.read_once(copy_of_person, wanted))


def prune(dry_run: DryRunOption = False, config: ConfigOption = None) -> None:
    """Delete events, visits, sessions and attempts that [retention] has outlived; the chain goes on from anchors."""
    settings, runtime = load_settings(config), system_runtime()
    with open_database(settings) as database:
        now = asyncio.run(_now(database, settings, runtime))
        attempts = _prune_attempts(database, now - settings.retention.attempts, dry_run=dry_run)
        before = now - settings.retention.events
        keys, total = database.read_now(rooms_to_prune, before), Pruned()
        with progress_bar("logs", len(keys)) as advance:
            for key in keys:
                if dry_run:
                    total += database.read_now(count_prunable, key, before)
                else:
                    while (pruned := database.write_now(prune_room, key, before)).events:
                        total += pruned
                advance(1)
    counted = (
        count_of(total.events, "event"), count_of(total.visits, "visit"), count_of(total.sessions, "session"),
        count_of(attempts, "attempt"),
    )  # fmt: skip
    print_line(f"{'would delete' if dry_run else 'deleted'} {', '.join(counted)}")


def _prune_attempts(database: Database, before: datetime, *, dry_run: bool) -> int:
    count = database.read_now(count_old_attempts, before)
    while not dry_run and database.write_now(prune_attempts, before):
        pass
    return count


def _person(key: str | None, peer: str | None) -> Person:
    if (key is None) == (peer is None):
        raise UsageError("name either a person with --person, or a peer with --peer")
    return Person(key=key, peer_id=peer)


def _erase(database: Database, person: Person, runtime: Runtime, *, dry_run: bool) -> Erasure:
    act = database.read_now if dry_run else database.write_now
    return act(erase_person, person, runtime.now(), runtime.new_id, dry_run=dry_run)


def _counted(erased: Erasure) -> str:
    return f"{count_of(erased.visits, 'visit')} and the bodies of {count_of(erased.events, 'event')}"


def _confirm(erased: Erasure) -> None:
    if not erased.visits:
        return
    if not sys.stdin.isatty():
        raise UsageError("erasing cannot be undone: confirm it with --yes, or look first with --dry-run")
    if not typer.confirm(f"Erase {_counted(erased)}? It cannot be undone.", err=True):
        raise UsageError("nothing was erased")


async def _now(database: Database, settings: Settings, runtime: Runtime) -> datetime:
    async with AsyncExitStack() as stack:
        sources = [open_source(account, runtime.now) for account in settings.sources]
        for source in sources:
            stack.push_async_callback(source.aclose)
        return await oldest_clock(database, sources, runtime.now())
