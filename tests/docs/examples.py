"""The examples of docs/events.md: a short meeting, made by the code that makes real ones.

`python -m tests.docs.examples` writes them into the page; a test compares the page with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

from bridge.events.bodies import (
    Draft,
    ReconciledVisit,
    RoomName,
    draft,
    draft_checkpoint,
    draft_endpoint,
    draft_erased,
    draft_reconciled,
    draft_snapshots,
    draft_source,
    encode,
)
from bridge.events.formats import Format, render
from bridge.rules.presence import Json, Peer, PeerLeft, Presence, PresencePolicy, Snapshot, diff
from tests.docs import pages

ROOM = RoomName(source="main", room_id="abc-defg-hij", room_name="Weekly stand-up")
OWN = RoomName(source=None, room_id=None, room_name=None)
STYLED = "peer.left"
"""The type of the event that is shown in every style."""


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-23T{clock}").replace(tzinfo=UTC)


def ann(*, raised: bool = False) -> Peer:
    metadata: Json = {"displayName": "Ann", "email": "ann@example.com", "isHandRaised": raised}
    return Peer(peer_id="peerId-4cRF64LOB6dWF_d0qEzQs", join_time=at("09:00:04.512"), metadata=metadata)


BO = Peer(peer_id="peerId-u1YhV8kq0Jm3nBx7TzQaP", join_time=at("09:12:25.120"), metadata={"displayName": "Bo"})

POLLS = (
    (at("09:00:00.004"), Snapshot(peers=(), no_session=True)),
    (at("09:00:10.006"), Snapshot(peers=(ann(),))),
    (at("09:12:30.011"), Snapshot(peers=(ann(), BO))),
    (at("09:20:00.009"), Snapshot(peers=(ann(raised=True), BO))),
    (at("09:29:49.002"), Snapshot(peers=(ann(raised=True), BO))),
    (at("09:29:59.007"), Snapshot(peers=(BO,))),
    (at("09:45:09.013"), Snapshot(peers=(BO,))),
    (at("09:45:19.015"), Snapshot(peers=(), no_session=True)),
)
SUBSCRIBED_AFTER = at("09:12:30.011")
"""After this poll, an endpoint that wants `room.snapshot` was added."""


def drafts() -> Iterator[tuple[Draft, RoomName]]:
    """Every event, in order."""
    numbers = count(1)
    presence, ended = Presence(), list[PeerLeft]()
    for moment, snapshot in POLLS:
        difference = diff(presence, snapshot, PresencePolicy(), moment, lambda prefix: _id(prefix, next(numbers)))
        presence = difference.after
        for change in difference.changes:
            yield draft(change, moment), ROOM
        if moment == SUBSCRIBED_AFTER:
            yield draft_snapshots(presence.session, presence.visits.values(), moment)[0], ROOM
        ended += difference.left
    yield _reconciled(ended), ROOM
    yield from ((each, OWN) for each in own_log())


def _reconciled(ended: list[PeerLeft]) -> Draft:
    exits = (at("09:29:52.871"), at("09:45:17.402"))
    visits = [
        ReconciledVisit(
            visit_id=change.visit.visit_id,
            peer_id=change.visit.peer_id,
            person_key=change.visit.person_key,
            display_name=change.visit.display_name,
            joined_at=change.visit.joined_at,
            left_at=left_at,
            left_at_source="reconciled",
            change="corrected",
        )
        for change, left_at in zip(ended, exits, strict=True)
    ]
    return draft_reconciled(
        session_id=ended[0].session_id,
        started_at=visits[0].joined_at,
        ended_at=exits[-1],
        visits=visits,
        observed_at=at("09:47:30.500"),
    )


def _id(prefix: str, number: int) -> str:
    return f"{prefix}_01m83ve4rwa4xk2cbdz5h7n{number:03}"


def own_log() -> Iterator[Draft]:
    """The bridge's own log."""
    away, back, gone = at("10:02:11.310"), at("10:06:45.870"), at("11:30:00.250")
    detail = "status 503: upstream connect error"
    yield draft_source(available=False, source="main", condition="failing", since=away, detail=detail, observed_at=away)
    yield draft_source(available=True, source="main", condition="failing", since=away, detail=None, observed_at=back)
    yield draft_endpoint(recovered=False, endpoint="crm", reason="gone", since=gone, at=gone)
    yield draft_endpoint(recovered=True, endpoint="chat", reason=None, since=at("11:40:12.008"), at=at("11:52:40.771"))
    root = bytes.fromhex("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
    yield draft_checkpoint(merkle_root=root, room_count=2, event_count=14, at=at("12:00:00.103"))
    bodies_gone = [("main", "abc-defg-hij", sequence) for sequence in (2, 5, 6)]
    yield draft_erased(visit_ids=[_id("vis", 2)], events=bodies_gone, at=at("12:30:00.009"))


def bodies() -> list[bytes]:
    """The canonical bodies."""
    sequences = {ROOM: count(1), OWN: count(1)}
    return [
        encode(each, room, event_id=f"evt_01m83vdq{number:02}j5t8wy0s6rc3ke9g", sequence=next(sequences[room]))
        for number, (each, room) in enumerate(drafts())
    ]


def examples() -> dict[str, str]:
    """The content of each named code block of the page: the last event of each type, and one in every style."""
    by_type = {json.loads(body)["type"]: body for body in bodies()}
    by_type[STYLED] = next(body for body in bodies() if json.loads(body)["type"] == STYLED)
    shown = {f"example: {kind}": pretty(body) for kind, body in by_type.items()}
    for style in Format:
        if style is not Format.STANDARD:
            shown[f"style: {style}"] = pretty(render(style, by_type[STYLED]).body)
    return shown


def pretty(body: bytes) -> str:
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


def main() -> None:
    """Write the examples into the page."""
    text = pages.read(pages.EVENTS)
    for name, content in examples().items():
        text = pages.with_block(text, name, content)
    pages.EVENTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
