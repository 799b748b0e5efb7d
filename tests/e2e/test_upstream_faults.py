"""Every fault of upstream.md section 5 in the middle of a meeting: nobody has left, and afterwards only what is true.

One bridge watches one room per fault, each with a source of its own, so that one fault cannot slow down another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Event, Receiver
from tests.harness.simulator import SimulatorClient, SimulatorProcess
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
"""Polls that say nothing about the room: while they last nothing is told."""

INCOMPLETE: dict[str, Fault] = {
    "count-too-high": {"kind": "count_mismatch", "by": 1},
    "count-too-low": {"kind": "count_mismatch", "by": -1},
    "item-without-id": {"kind": "item_without_id"},
    "item-not-object": {"kind": "item_not_object"},
}
"""Lists that may be short of somebody: who is on them is there, who is missing need not have left."""

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
    "metadata-assign_sequences": {"kind": "metadata_number"},
    "metadata-huge": {"kind": "metadata_huge"},
    "metadata-surrogate": {"kind": "metadata_surrogate"},
    "extra-fields": {"kind": "extra_fields"},
    "shuffled": {"kind": "shuffled"},
    "iso-times": {"kind": "iso_times"},
}
"""Answers that are unusual and true."""

ALL = {**FAILURES, **INCOMPLETE, **ODD}
SLOWEST = 90.0
"""Seconds: a source whose key was refused is asked once a minute."""


def key_of(fault: str) -> str:
    return f"key-{fault}"


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SimulatorClient]:
    with SimulatorProcess(tmp_path, api_keys=[key_of(fault) for fault in ALL]) as process:
        yield process.client


@pytest.mark.slow
def test_no_fault_makes_anybody_leave(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    for fault in ALL:
        simulator.create_room(fault, key_of(fault))
        for peer in ("anna", "bert"):
            simulator.join(fault, peer, metadata={"displayName": peer.title()})
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=[{"id": fault, "source": fault} for fault in ALL],
        sources={fault: {"api_key": key_of(fault), "timeout": "1500ms"} for fault in ALL},
        endpoints=[receiver.endpoint()],
        polling={"interval": "500ms"},
    )
    with BridgeProcess(config) as program:
        for fault in ALL:
            receiver.wait_for_count(3, room=fault)
        _break(simulator)
        _change_under_faults(simulator)
        _wait_for_newcomers(receiver, [*INCOMPLETE, *ODD])
        during = {fault: receiver.events(room=fault)[3:] for fault in ALL}
        _mend(simulator)
        wait_until(
            lambda: not _untrue(receiver),
            timeout=SLOWEST,
            what=lambda: f"the truth in every room; missing: {_untrue(receiver)}",
        )
        assert program.stop() == 0
    _check_during(during)
    _check_afterwards(receiver)


def _break(simulator: SimulatorClient) -> None:
    since = simulator.last_request()
    for fault, how in ALL.items():
        simulator.faults(how, room=fault)
    simulator.wait_for_polls(1, "401", since=since)
    simulator.wait_for_polls(2, *(set(ALL) - {"401"}), since=since)


def _change_under_faults(simulator: SimulatorClient) -> None:
    """Cleo comes everywhere; Anna goes where it must not be noticed yet."""
    since = simulator.last_request()
    for fault in ALL:
        steps = [{"room": fault, "do": "join", "peer_id": "cleo", "metadata": {"displayName": "Cleo"}}]
        if fault not in ODD:
            steps.append({"room": fault, "do": "leave", "peer_id": "anna"})
        simulator.script(*steps)
    simulator.wait_for_polls(1, *(set(ALL) - {"401"}), since=since)


def _wait_for_newcomers(receiver: Receiver, faults: Sequence[str]) -> None:
    for fault in faults:
        receiver.wait_for(
            lambda events: any(event["data"].get("peer_id") == "cleo" for event in events),
            f"Cleo in {fault}",
            room=fault,
        )


def _mend(simulator: SimulatorClient) -> None:
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
    came = [("peer.joined", "cleo")]
    assert {fault: moves(during[fault]) for fault in [*INCOMPLETE, *ODD]} == dict.fromkeys([*INCOMPLETE, *ODD], came)
    joined = {fault: during[fault][0]["data"] for fault in ODD if moves(during[fault])}
    sources = {fault: facts["joined_at_source"] for fault, facts in joined.items()}
    observed = {"join-time-missing", "join-time-null", "join-time-future"}
    assert sources == {fault: "observed" if fault in observed else "upstream" for fault in ODD}


def _check_afterwards(receiver: Receiver) -> None:
    """One went, one came, nothing else: no return, no empty room."""
    moved = {fault: sorted(moves(receiver.events(room=fault)[3:])) for fault in ALL}
    assert moved == {fault: [("peer.joined", "cleo"), ("peer.left", "anna")] for fault in ALL}
    assert log_problems(receiver.events()) == []
    assert delivery_problems(receiver.deliveries) == []


def moves(events: Sequence[Event]) -> list[tuple[str, str | None]]:
    """What was said of who is there."""
    told = [(event["type"], event["data"].get("peer_id")) for event in events]
    return [said for said in told if said[0] != "peer.updated"]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [([], "no_session"), ([{"kind": "no_session_412"}], "no_session"), ([{"kind": "empty_200"}], "absent")],
    ids=["404", "412", "empty list"],
)
def test_every_way_of_saying_nobody_ends_the_meeting(
    faults: list[Fault], reason: str, tmp_path: Path, sqlite_database_url: str, receiver: Receiver
) -> None:
    with SimulatorProcess(tmp_path) as process:
        process.client.join("room", "anna")
        process.client.faults(*faults)
        config = write_config(
            tmp_path / "bridge.toml",
            database_url=sqlite_database_url,
            upstream=process.client.url,
            rooms=["room"],
            endpoints=[receiver.endpoint()],
        )
        with BridgeProcess(config):
            receiver.wait_for_count(2)
            process.client.end("room")
            events = receiver.wait_for_count(4)
    assert [event["type"] for event in events[2:]] == ["peer.left", "room.empty"]
    assert events[3]["data"]["empty_reason"] == reason
