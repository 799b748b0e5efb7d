"""`bridge attendance reconcile`: ended sessions corrected by the source's own record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from bridge.attendance.query import Selection
from bridge.attendance.reconcile import EndedSession, ReconcileTerms, find_ended, reconcile_session
from bridge.cli.database import open_database
from bridge.cli.inputs import parse_period
from bridge.cli.options import ConfigOption, RoomFilter, SessionFilter, SinceFilter
from bridge.cli.output import print_line, print_message
from bridge.cli.progress import progress_bar
from bridge.cli.settings import load_settings
from bridge.config import Settings
from bridge.db.engine import Database
from bridge.rules.reconcile import Outcome
from bridge.runtime import Runtime, system_runtime
from bridge.sources.kinds import open_source


def reconcile_sessions(
    room: RoomFilter = None,
    session: SessionFilter = None,
    since: SinceFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would change.")] = False,
    config: ConfigOption = None,
) -> None:
    """Ask the source for its own record of ended sessions, and correct their times; exit 1 if some is not there yet."""
    settings, runtime = load_settings(config), system_runtime()
    period = parse_period(since, None, now=runtime.now(), zone=settings.bridge.timezone)
    selection = Selection(room=room, session=session, since=period.since)
    terms = ReconcileTerms(
        after=settings.attendance.reconcile_after, identity=settings.polling.policy.identity, dry_run=dry_run
    )
    with open_database(settings) as database:
        found = database.read_now(find_ended, selection)
        if not found:
            print_message("there is no ended session to reconcile")
        with progress_bar("sessions", len(found)) as advance:
            outcomes = asyncio.run(_reconcile(database, settings, runtime, found, terms, advance))
    if not all(outcome.is_final for outcome in outcomes):
        raise typer.Exit(1)


async def _reconcile(
    database: Database,
    settings: Settings,
    runtime: Runtime,
    found: Sequence[EndedSession],
    terms: ReconcileTerms,
    advance: Callable[[int], None],
) -> list[Outcome]:
    outcomes = []
    async with AsyncExitStack() as stack:
        accounts = {account.name: account for account in settings.sources}
        sources = {name: open_source(account, runtime.now) for name, account in accounts.items()}
        for source in sources.values():
            stack.push_async_callback(source.aclose)
        for each in found:
            account, keeper = accounts.get(each.source), sources.get(each.source)
            done = await reconcile_session(database, account, keeper, each, runtime, terms)
            notes = f" ({', '.join(done.notes)})" if done.notes else ""
            changed = "" if done.has_changed else ", nothing changed"
            start = each.started_at.astimezone(settings.bridge.timezone).isoformat(" ", "seconds")
            print_line(f"{each.session_id}  {each.room_id}  {start}  {done.outcome.value}{notes}{changed}")
            outcomes.append(done.outcome)
            advance(1)
    return outcomes
