"""`bridge poll`: ask about one room now, and show who is there and what has changed since the last time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import typer

from bridge.admin.listing import document
from bridge.admin.rooms import PresentPeer, present_peer
from bridge.cli.options import ConfigOption, JsonOption, SourceOption, load_settings
from bridge.cli.output import Column, count_of, print_json, print_line, print_table, say
from bridge.cli.poll_once import UNSAVED, Seen, look_at_room, poll_room
from bridge.cli.rooms import print_peers
from bridge.cli.summaries import what_happened
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.errors import BridgeError
from bridge.events.bodies import draft, rfc3339
from bridge.rules.presence import Change, Failure, Snapshot
from bridge.service import system_runtime


def poll(
    room: Annotated[str, typer.Argument(metavar="ROOM", help="The room's id.")],
    source: SourceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store and send nothing; the room need not be tracked.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Poll one room now: who is there, and what has changed. Safe beside a running service."""
    settings = load_settings(config)
    runtime = system_runtime()
    seen = (look_at_room if dry_run else poll_room)(settings, room, source, runtime)
    if as_json:
        print_json(_document(seen, dry_run=dry_run))
    if isinstance(seen.response, Failure):
        raise BridgeError(_complaint(seen, seen.response))
    if not as_json:
        _print_seen(seen, settings)
    _say_what_follows(seen, dry_run=dry_run)


def _complaint(seen: Seen, failure: Failure) -> str:
    return (
        f"room {quoted(seen.room_id)}, source {seen.source}: {failure.kind}: {failure.detail}; this says nothing about "
        "who is there, so nothing has changed"
    )


def _document(seen: Seen, *, dry_run: bool) -> dict[str, Any]:
    response = seen.response
    failure = response if isinstance(response, Failure) else None
    peers = _peers(seen)
    return {
        "room_id": seen.room_id,
        "source": seen.source,
        "dry_run": dry_run,
        "polled_at": rfc3339(seen.at),
        "outcome": _outcome(response),
        "detail": None if failure is None else failure.detail,
        "notes": [] if isinstance(response, Failure) else list(response.notes),
        "peer_count": len(peers),
        "peers": [_without_unsaved(document(peer)) for peer in peers],
        "changes": [_without_unsaved(_change_document(change, seen.at)) for change in seen.changes],
        "event_count": seen.event_count,
    }


def _outcome(response: Snapshot | Failure) -> str:
    match response:
        case Failure(kind=kind):
            return kind.value
        case Snapshot(no_session=True):
            return "no_session"
        case Snapshot(complete=complete):
            return "complete" if complete else "incomplete"


def _peers(seen: Seen) -> list[PresentPeer]:
    peers = (present_peer(visit) for visit in seen.after.visits.values())
    return sorted(peers, key=lambda peer: (peer.joined_at, peer.peer_id))


def _change_document(change: Change, at: datetime) -> dict[str, Any]:
    told = draft(change, at)
    return {"type": told.type.value, "timestamp": rfc3339(told.timestamp), **told.facts}


def _without_unsaved(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if key in ("visit_id", "session_id") and str(value).startswith(UNSAVED) else value
        for key, value in facts.items()
    }


def _print_seen(seen: Seen, settings: Settings) -> None:
    response = seen.response
    print_line(f"{seen.room_id}: {_outcome(response)}, {len(seen.after.visits)} there")
    if peers := _peers(seen):
        print_line("")
        shown = [replace(peer, visit_id="-") if peer.visit_id.startswith(UNSAVED) else peer for peer in peers]
        print_peers(shown, seen.at, settings)
    print_line("")
    told = [draft(change, seen.at) for change in seen.changes]
    print_table(
        (Column(title="change"), Column(title="what")),
        [(one.type.value, what_happened(one.type.value, one.facts)) for one in told],
        empty="nothing has changed",
    )
    for note in response.notes if isinstance(response, Snapshot) else ():
        say(f"note: {note}")


def _say_what_follows(seen: Seen, *, dry_run: bool) -> None:
    if dry_run:
        say("dry run: nothing was stored, nothing is sent")
    elif seen.event_count:
        say(f"{count_of(seen.event_count, 'event')} written to the log; the running service delivers them")
