"""Every fault of the upstream in the middle of a meeting: no peer leaves, and afterwards all events are true.

One bridge tracks one room per fault. Those that fail have a source of their own, so that none slows down another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from bridge.simulator import Simulation
from tests.harness.config import Configure
from tests.harness.deliveries import delivery_problems
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Event, Receiver
from tests.harness.simulator import Simulator
from tests.harness.tables import end_pauses
from tests.harness.waiting import wait_until

Fault = dict[str, Any]

FAILURES: dict[str, Fault] = {
    "500": {"kind": "status", "status": 500},
    "502-html": {"kind": "status", "status": 502, "body": "<html>Bad gateway</html>", "content_type": "text/html"},
    "503-retry-after": {"kind": "status", "status": 503, "headers": {"Retry-After": "1"}},
    "html-with-200": {"kind": "html_200"},
    "truncated-json": {"kind": "truncated_json"},
    "not-json": {"kind": "not_json"},
    "time-out": {"kind": "timeout", "seconds": 60},
    "reset": {"kind": "reset"},
    "cut": {"kind": "cut"},
    "401": {"kind": "unauthorized"},
    "429": {"kind": "rate_limited"},
    "429-retry-after": {"kind": "rate_limited", "retry_after": 1},
    "404-page": {"kind": "not_found_page"},
    "404-other-json": {"kind": "not_found_other_json"},
    "redirect": {"kind": "redirect"},
    "not-ok-with-200": {"kind": "ok_false_200"},
}
"""Failed polls: while they last nothing is emitted."""

INCOMPLETE: dict[str, Fault] = {
    "count-too-high": {"kind": "count_mismatch", "by": 1},
    "count-too-low": {"kind": "count_mismatch", "by": -1},
    "item-without-id": {"kind": "item_without_id"},
    "item-not-object": {"kind": "item_not_object"},
}
"""Lists that may be incomplete: a listed peer is present, a missing one need not have left."""

ODD: dict[str, Fault] = {
    "slow": {"kind": "slow", "seconds": 0.3},
    "count-missing": {"kind": "count_missing"},
    "duplicate-item": {"kind": "duplicate_item"},
    "join-time-missing": {"kind": "join_time_missing"},
    "join-time-null": {"kind": "join_time_null"},
    "join-time-future": {"kind": "join_time_future", "seconds": 3600},
    "join-time-iso": {"kind": "join_time_iso"},
    "join-time-float": {"kind": "join_time_float"},
    "exit-time": {"kind": "exit_time"},
    "metadata-string": {"kind": "metadata_string"},
    "metadata-not-json": {"kind": "metadata_not_json"},
    "metadata-null": {"kind": "metadata_null"},
    "metadata-absent": {"kind": "metadata_absent"},
    "metadata-array": {"kind": "metadata_array"},
    "metadata-number": {"kind": "metadata_number"},
    "metadata-huge": {"kind": "metadata_huge"},
    "metadata-surrogate": {"kind": "metadata_surrogate"},
    "extra-fields": {"kind": "extra_fields"},
    "shuffled": {"kind": "shuffled"},
    "repeated": {"kind": "repeated"},
    "stale": {"kind": "stale", "seconds": 1},
}
"""Responses that are unusual and true."""

ALL = {**FAILURES, **INCOMPLETE, **ODD}


def source_of(fault: str) -> str:
    return fault if fault in FAILURES else "true"


def key_of(source: str) -> str:
    return f"key-{source}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "migrated_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.campaign)], indirect=True
)
def test_no_fault_makes_a_peer_leave(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    a_minute_ago = round(1000 * (time.time() - 60))
    for fault in ALL:
        simulator.at_once(partial(Simulation.add_room, room_id=fault, api_key=key_of(source_of(fault))))
        for peer in ("anna", "bert"):
            simulator.join(fault, peer, metadata={"displayName": peer.title()}, joined_at=a_minute_ago)
    config = configure(
        rooms=[{"id": fault, "source": source_of(fault)} for fault in ALL],
        sources={source: {"api_key": key_of(source), "timeout": "1500ms"} for source in map(source_of, ALL)},
        endpoints=[receiver.endpoint()],
        polling={"interval": "300ms"},
    )
    with BridgeProcess(config) as program:
        for fault in ALL:
            receiver.wait_for_count(3, room=fault)
        _break(simulator)
        _change_under_faults(simulator, migrated_url)
        _wait_for_newcomers(receiver, [*INCOMPLETE, *ODD])
        during = {fault: receiver.events(room=fault)[3:] for fault in ALL}
        _repair(simulator)
        end_pauses(migrated_url, FAILURES)
        wait_until(lambda: not _untrue(receiver), what=lambda: f"the truth in {_untrue(receiver)}")
        assert program.stop() == 0
    _check_during(during)
    _check_afterwards(receiver)


def _break(simulator: Simulator) -> None:
    since = simulator.last_poll()
    for fault, how in ALL.items():
        simulator.faults(how, room=fault)
    simulator.wait_for_polls(1, "401", since=since)
    simulator.wait_for_polls(2, *(set(ALL) - {"401"}), since=since)


def _change_under_faults(simulator: Simulator, database_url: str) -> None:
    """Cleo joins everywhere; Anna leaves where it must not be noticed yet."""
    since = simulator.last_poll()
    for fault in ALL:
        simulator.at_once(partial(_change_in, fault))
    end_pauses(database_url, FAILURES)
    simulator.wait_for_polls(1, *ALL, since=since)


def _change_in(fault: str, simulation: Simulation) -> None:
    simulation.join(fault, peer_id="cleo", metadata={"displayName": "Cleo"})
    if fault not in ODD:
        simulation.leave(fault, "anna")


def _wait_for_newcomers(receiver: Receiver, faults: Sequence[str]) -> None:
    for fault in faults:
        receiver.wait_for(
            lambda events: any(event["data"].get("peer_id") == "cleo" for event in events),
            f"Cleo in {fault}",
            room=fault,
        )


def _repair(simulator: Simulator) -> None:
    for fault in ALL:
        simulator.faults(room=fault)
    for fault in ODD:
        simulator.leave(fault, "anna")


def _untrue(receiver: Receiver) -> list[str]:
    present = replay(receiver.events())
    return [fault for fault in ALL if present.get(fault) != {"bert", "cleo"}]


def _check_during(during: dict[str, list[Event]]) -> None:
    assert {fault: moves(during[fault]) for fault in FAILURES} == {fault: [] for fault in FAILURES}
    assert {fault: during[fault] for fault in FAILURES} == {fault: [] for fault in FAILURES}
    joined_only = [("peer.joined", "cleo")]
    assert {fault: moves(during[fault]) for fault in [*INCOMPLETE, *ODD]} == dict.fromkeys(
        [*INCOMPLETE, *ODD], joined_only
    )
    joined = {fault: during[fault][0]["data"] for fault in ODD if moves(during[fault])}
    sources = {fault: facts["joined_at_source"] for fault, facts in joined.items()}
    observed = {"join-time-missing", "join-time-null", "join-time-future"}
    assert sources == {fault: "observed" if fault in observed else "upstream" for fault in ODD}


def _check_afterwards(receiver: Receiver) -> None:
    """One left, one joined, nothing else: no return, no empty room."""
    moved = {fault: sorted(moves(receiver.events(room=fault)[3:])) for fault in ALL}
    assert moved == {fault: [("peer.joined", "cleo"), ("peer.left", "anna")] for fault in ALL}
    assert log_problems(receiver.events()) == []
    assert delivery_problems(receiver.deliveries) == []


def moves(events: Sequence[Event]) -> list[tuple[str, str | None]]:
    """Return type and peer of each event but those of metadata."""
    return [(event["type"], event["data"].get("peer_id")) for event in events if event["type"] != "peer.updated"]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [([], "no_session"), ([{"kind": "no_session_412"}], "no_session"), ([{"kind": "empty_200"}], "absent")],
    ids=["404", "412", "empty list"],
)
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_every_response_for_an_empty_room_ends_the_meeting(
    configure: Configure,
    faults: list[Fault],
    reason: str,
    simulator: Simulator,
    receiver: Receiver,
) -> None:
    simulator.join("room", "anna")
    simulator.faults(*faults)
    config = configure(rooms=["room"], endpoints=[receiver.endpoint()])
    with BridgeProcess(config):
        receiver.wait_for_count(2)
        simulator.end("room")
        events = receiver.wait_for_count(4)
    assert [event["type"] for event in events[2:]] == ["peer.left", "room.empty"]
    assert events[3]["data"]["empty_reason"] == reason
