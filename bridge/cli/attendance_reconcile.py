"""`bridge attendance reconcile`: ended sessions corrected by the source's own record."""

from __future__ import annotations

import asyncio
from datetime import tzinfo
from typing import Annotated

import typer

from bridge.attendance.query import Selection
from bridge.attendance.reconcile import ReconciledSession, ReconcileTerms, find_ended, reconcile_sessions
from bridge.cli.database import open_database
from bridge.cli.inputs import parse_period
from bridge.cli.options import ConfigOption, RoomFilter, SessionFilter, SinceFilter
from bridge.cli.output import print_line, print_message
from bridge.cli.progress import progress_bar
from bridge.cli.settings import load_settings
from bridge.runtime import system_runtime


def reconcile(
    room: RoomFilter = None,
    session: SessionFilter = None,
    since: SinceFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would change.")] = False,
    config: ConfigOption = None,
) -> None:
    """Ask the source for its own record of ended sessions, and correct their times; exit 1 if one is incomplete."""
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

            def show(done: ReconciledSession) -> None:
                print_line(_line(done, settings.bridge.timezone))
                advance(1)

            outcomes = asyncio.run(reconcile_sessions(database, settings.sources, found, runtime, terms, show))
    if not all(done.outcome.is_final for done in outcomes):
        raise typer.Exit(1)


def _line(done: ReconciledSession, zone: tzinfo) -> str:
    session = done.session
    notes = f" ({', '.join(done.notes)})" if done.notes else ""
    changed = "" if done.has_changed else ", nothing changed"
    start = session.started_at.astimezone(zone).isoformat(" ", "seconds")
    return f"{session.session_id}  {session.room_id}  {start}  {done.outcome.value}{notes}{changed}"
