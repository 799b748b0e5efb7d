"""`bridge poll`: poll one room now and show its peers and the changes since the last poll."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from bridge.admin.poll import PollResult
from bridge.cli.options import ConfigOption, JsonOption, RoomArgument, SourceOption
from bridge.cli.output import Column, print_json, print_line, print_message, print_table
from bridge.cli.poll_once import UNSAVED, poll_room, preview_poll
from bridge.cli.rooms import print_peers
from bridge.cli.settings import load_settings
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.errors import BridgeError
from bridge.events.bodies import draft
from bridge.events.summaries import summarize
from bridge.events.wording import count_of
from bridge.rules.presence import Failure
from bridge.runtime import system_runtime


def poll(
    room: RoomArgument,
    source: SourceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store and send nothing; the room need not be tracked.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Poll one room now and show its peers and what has changed. Safe beside a running service."""
    settings = load_settings(config)
    result = (preview_poll if dry_run else poll_room)(settings, room, source, system_runtime())
    if as_json:
        print_json(_document(result, dry_run=dry_run))
    if isinstance(result.response, Failure):
        raise BridgeError(
            f"room {quoted(room)}, source {result.source}: {result.response.kind}: {result.response.detail}; "
            "a failed poll changes nothing"
        )
    if not as_json:
        _print_result(result, settings)
    if dry_run:
        print_message("dry run: nothing is stored or sent")
    elif result.event_count:
        print_message(f"{count_of(result.event_count, 'event')} written to the log; the running service delivers them")


def _document(result: PollResult, *, dry_run: bool) -> dict[str, Any]:
    facts = result.facts
    for key in ("peers", "changes"):
        facts[key] = [_without_unsaved(item) for item in facts[key]]
    return {"room_id": facts.pop("room_id"), "source": facts.pop("source"), "dry_run": dry_run, **facts}


def _without_unsaved(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts in which the ids of a dry run are null."""
    ids = ("visit_id", "session_id")
    return {key: None if key in ids and value == UNSAVED else value for key, value in facts.items()}


def _print_result(result: PollResult, settings: Settings) -> None:
    print_line(f"{result.room_id}: {result.outcome}, {count_of(len(result.after.visits), 'peer')}")
    if peers := result.peers:
        print_line("")
        print_peers(peers, result.at, settings)
    print_line("")
    drafts = [draft(change, result.at) for change in result.changes]
    print_table(
        (Column(title="CHANGE"), Column(title="SUMMARY")),
        [(change.type.value, summarize(change.type.value, change.facts)) for change in drafts],
        empty="nothing has changed",
    )
    for note in result.notes:
        print_message(f"note: {note}")
