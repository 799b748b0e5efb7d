"""Replays by the running program: beside live events, through a `kill -9`, to an endpoint that is disabled."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.harness.commands import command
from tests.harness.config import write_config
from tests.harness.deliveries import stored_events
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Delivery, Event, Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

CROWDS = [f"crowd-{assign_sequences}" for assign_sequences in range(8)]
PEOPLE = 60
LEASES_LAPSE = 90.0
"""Seconds within which what a dead process had claimed is due again."""


def is_replay(delivery: Delivery) -> bool:
    return delivery.headers.get("bridge-replay") == "true"


def is_live(delivery: Delivery) -> bool:
    return not is_replay(delivery)


@pytest.mark.slow
def test_a_long_replay_starves_nobody_and_survives_a_kill(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=[*CROWDS, "meeting"],
        endpoints=[receiver.endpoint("crm", max_concurrency=8)],
        delivery={"timeout": "1s"},
        log={"level": "warning"},
    )
    for room in CROWDS:
        simulator.script(
            *({"room": room, "do": "join", "peer_id": f"p{assign_sequences}"} for assign_sequences in range(PEOPLE))
        )
    count = len(CROWDS) * (PEOPLE + 1)
    with BridgeProcess(config) as program:
        receiver.wait_for_count(count, timeout=60)
        bodies = {one.event_id: one.body for one in receiver.accepted}
        receiver.script(Response(hold=True, when=is_replay, times=1))
        asked = json.loads(command(config, "deliveries", "replay", "--endpoint", "crm", "--since", "1h", "--json"))
        assert asked == {"endpoint": "crm", "events": count, "dry_run": False}
        wait_until(lambda: replays(receiver), what="the first of the replay")
        for assign_sequences in range(3):
            simulator.join("meeting", f"live-{assign_sequences}")
            receiver.wait_for_count(2 + assign_sequences, room="meeting")
        assert len(replays(receiver)) == 1, "live events did not wait for a replay that hangs"
        receiver.script()
        receiver.release()
        wait_until(lambda: len(replays(receiver)) > count // 10, what="some more of the replay")
        simulator.join("meeting", "live-in-the-middle")
        receiver.wait_for_count(5, room="meeting")
        assert len(replays(receiver)) < count, "a live event waited for the end of a replay"
        receiver.script(
            Response(times=5), Response(when=is_replay, times=1, after=lambda _: program.send(signal.SIGKILL))
        )
        program.wait()
    receiver.script()
    with BridgeProcess(config) as program:
        wait_until(
            lambda: bodies.keys() <= {one.event_id for one in replays(receiver) if one.accepted},
            timeout=LEASES_LAPSE,
            what=lambda: f"the whole replay; there were {len(replays(receiver))} of {count}",
        )
        assert program.stop() == 0
    again = replays(receiver)
    assert all(one.body == bodies[one.event_id] for one in again)
    assert [one.unverified for one in again if one.unverified] == []
    assert len(again) <= count + 1 + 1, "what was recorded is not repeated, but for the one that was killed and held"
    assert {one.event_id for one in receiver.accepted if is_live(one)} == {
        event["id"] for _, event in stored_events(ready_url)
    }


def replays(receiver: Receiver) -> list[Delivery]:
    return [one for one in receiver.deliveries if is_replay(one)]


@pytest.mark.slow
def test_a_running_program_is_told_by_commands(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    """410, a dead letter, disable, a replay of one event, enable: nothing is lost on the way."""
    with Receiver() as healthy:
        config = write_config(
            tmp_path / "bridge.toml",
            database_url=ready_url,
            upstream=simulator.url,
            rooms=["meeting"],
            endpoints=[receiver.endpoint("crm"), healthy.endpoint("healthy")],
            delivery={"refused_schedule": ["50ms"]},
        )
        receiver.script(
            Response(status=422, when=lambda one: one.event["data"].get("peer_id") == "unwanted" and is_live(one))
        )
        with BridgeProcess(config) as program:
            for peer in ("anna", "unwanted", "bert"):
                simulator.join("meeting", peer)
                wait_for_peer(healthy, peer)
            receiver.wait_for(lambda events: [peer_of(event) for event in events] == [None, "anna", "bert"], "the rest")
            command(config, "deliveries", "replay", "--endpoint", "crm", "--failed")
            receiver.wait_for_count(4)
            assert peer_of(receiver.events()[-1]) == "unwanted"

            receiver.script(Response(status=410))
            simulator.join("meeting", "cleo")
            wait_until(lambda: any(one.status == 410 for one in receiver.deliveries), what="a 410")
            calls = len(receiver.deliveries)
            receiver.script()
            for peer in ("dora", "emil"):
                simulator.join("meeting", peer)
                wait_for_peer(healthy, peer)
            assert len(receiver.deliveries) == calls, "it said that it is gone"
            first = receiver.events()[0]["id"]
            command(config, "deliveries", "replay", first, "--endpoint", "crm")
            wait_until(lambda: len(receiver.deliveries) > calls, what="what a person asked for")
            command(config, "endpoints", "enable", "crm")
            wait_for_peer(receiver, "emil")

            command(config, "endpoints", "disable", "crm")
            calls = len(receiver.deliveries)
            simulator.leave("meeting", "emil")
            healthy.wait_for(lambda events: events[-1]["type"] == "peer.left", "Emil's leave")
            assert len(receiver.deliveries) == calls
            command(config, "endpoints", "enable", "crm")
            receiver.wait_for(lambda events: events[-1]["type"] == "peer.left", "Emil's leave")
            assert program.stop() == 0
        live = [one.event["data"]["sequence"] for one in receiver.accepted if is_live(one)]
        assert live == [1, 2, 4, 5, 6, 7, 8]
        assert [one.event_id for one in replays(receiver)] == [
            next(event["id"] for event in healthy.events() if peer_of(event) == "unwanted"),
            first,
        ]


def peer_of(event: Event) -> str | None:
    peer: str | None = event["data"].get("peer_id")
    return peer


def wait_for_peer(receiver: Receiver, peer: str) -> None:
    """Wait until the newest event is about somebody."""
    receiver.wait_for(lambda events: bool(events) and peer_of(events[-1]) == peer, peer)
