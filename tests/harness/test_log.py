"""The checks of a log find every fault; checks that always pass would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.log import KEYS, log_problems, replay
from tests.harness.receiver import Event

AT = "2026-11-23T09:00:00.000Z"


def event(sequence: int, kind: str, **facts: Any) -> Event:  # noqa: ANN401 - any JSON
    known = {"room_id": "room", "session_id": "ses_1", "sequence": sequence, "observed_at": AT, **facts}
    data = {key: known.get(key) for key in KEYS[kind]}
    return {"id": f"evt_{sequence}", "type": kind, "timestamp": AT, "schema_version": 1, "data": data}


def joined(sequence: int, peer: str, peer_count: int, **facts: Any) -> Event:  # noqa: ANN401 - any JSON
    return event(
        sequence, "peer.joined", peer_id=peer, visit_id=f"vis_{peer}", peer_count=peer_count, joined_at=AT, **facts
    )


def left(sequence: int, peer: str, peer_count: int) -> Event:
    return event(
        sequence,
        "peer.left",
        peer_id=peer,
        visit_id=f"vis_{peer}",
        peer_count=peer_count,
        left_at=AT,
        last_seen_at=AT,
    )


def meeting() -> list[Event]:
    return [
        event(1, "room.occupied", peer_count=2),
        joined(2, "anna", 1),
        joined(3, "bert", 2),
        left(4, "anna", 1),
        joined(5, "cleo", 2, observed_at="2026-11-23T09:00:10.000Z"),
        left(6, "bert", 1),
        left(7, "cleo", 0),
        event(8, "room.empty", peer_count=0, ended_at=AT, visit_count=3, unique_peers=3, peak_peer_count=2),
    ]


def test_a_sound_log_has_no_problems() -> None:
    assert log_problems(meeting()) == []
    assert replay(meeting()) == {"room": set()}
    assert replay(meeting()[:5]) == {"room": {"bert", "cleo"}}


def test_the_order_of_arrival_does_not_matter_and_neither_do_repetitions() -> None:
    events = meeting()
    assert log_problems([*reversed(events), *events]) == []


def changed(position: int, **facts: Any) -> Callable[[list[Event]], None]:  # noqa: ANN401 - any JSON
    return lambda events: events[position]["data"].update(facts)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda events: events.pop(3),
        lambda events: events.pop(0),
        lambda events: events.insert(4, joined(5, "cleo", 2) | {"id": "evt_again"}),
        changed(2, sequence=2),
        changed(2, peer_id="anna"),
        changed(3, visit_id="vis_other"),
        changed(4, visit_id="vis_anna"),
        changed(5, peer_count=2),
        changed(4, session_id="ses_2"),
        changed(0, peer_count=1),
        changed(7, visit_count=2),
        changed(7, ended_at="2026-11-23T08:59:59.000Z"),
        changed(7, unique_peers=2),
        changed(7, peak_peer_count=3),
        changed(7, peer_count=1),
        changed(3, left_at="2026-11-23T08:59:59.000Z"),
        changed(3, surprise=True),
        lambda events: events[1]["data"].pop("metadata"),
        lambda events: events[1].update(timestamp="2026-11-23T09:00:01.000Z"),
        lambda events: events.append(joined(9, "dora", 1)),
        lambda events: events.append(event(9, "room.empty", peer_count=0)),
        lambda events: events.append(event(9, "room.occupied", peer_count=0)),
    ],
)
def test_every_fault_is_found(spoil: Callable[[list[Event]], object]) -> None:
    events = meeting()
    spoil(events)
    assert log_problems(events) != []
