"""Replays by the running program: beside live events, through a `kill -9`, to a disabled endpoint."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.config import Configure
from tests.harness.deliveries import stored_events
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Delivery, Event, Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

CROWDS = [f"crowd-{number}" for number in range(8)]

DeliverBacklog = Callable[..., AbstractContextManager[tuple["Backlog", BridgeProcess]]]


def is_replay(delivery: Delivery) -> bool:
    return delivery.headers.get("bridge-replay") == "true"


def is_live(delivery: Delivery) -> bool:
    return not is_replay(delivery)


@dataclass(slots=True, kw_only=True)
class Backlog:
    """Rooms full of people, all of whose events the endpoint `crm` has accepted."""

    config: Path
    receiver: Receiver
    people: int

    @property
    def events(self) -> int:
        return len(CROWDS) * (self.people + 1)

    def replay_all(self) -> None:
        """Request a replay of everything."""
        printed = command(self.config, "deliveries", "replay", "--endpoint", "crm", "--since", "1h", "--json")
        assert json.loads(printed) == {"endpoint": "crm", "events": self.events, "dry_run": False}


@pytest.fixture
def deliver_backlog(configure: Configure, simulator: Simulator, receiver: Receiver) -> DeliverBacklog:
    @contextmanager
    def deliver(*, people: int, timeout: str) -> Iterator[tuple[Backlog, BridgeProcess]]:
        config = configure(
            rooms=[*CROWDS, "meeting"],
            endpoints=[receiver.endpoint("crm", max_concurrency=8)],
            delivery={"timeout": timeout},
            log={"level": "warning"},
        )
        for room in CROWDS:
            simulator.join(room, *(f"p{number}" for number in range(people)))
        backlog = Backlog(config=config, receiver=receiver, people=people)
        with BridgeProcess(config) as program:
            receiver.wait_for_count(backlog.events)
            yield backlog, program

    return deliver


@pytest.mark.slow
def test_a_replay_does_not_delay_live_events(
    deliver_backlog: DeliverBacklog, simulator: Simulator, receiver: Receiver
) -> None:
    with deliver_backlog(people=15, timeout="120s") as (backlog, program):
        receiver.script(Response(pause=True, when=is_replay, times=1))
        backlog.replay_all()
        wait_until(lambda: replays(receiver), what="the first of the replay")
        for number in range(3):
            simulator.join("meeting", f"live-{number}")
            receiver.wait_for_count(2 + number, room="meeting")
        assert len(replays(receiver)) == 1, "live events did not wait for a replay that hangs"
        receiver.script(
            Response(when=is_replay, times=backlog.events // 10), Response(pause=True, when=is_replay, times=1)
        )
        receiver.release()
        wait_until(lambda: len(replays(receiver)) > backlog.events // 10, what="some more of the replay")
        simulator.join("meeting", "live-in-the-middle")
        receiver.wait_for_count(5, room="meeting")
        assert len(replays(receiver)) < backlog.events, "a live event waited for the end of a replay"
        receiver.script()
        receiver.release()
        wait_until(lambda: len(replays(receiver)) == backlog.events, what="the whole replay")
        assert program.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("people", [15, pytest.param(60, marks=pytest.mark.campaign)])
def test_a_replay_survives_a_kill(
    people: int, deliver_backlog: DeliverBacklog, migrated_url: str, receiver: Receiver
) -> None:
    with deliver_backlog(people=people, timeout="5s") as (backlog, program):
        bodies = {one.event_id: one.body for one in receiver.accepted}
        receiver.script(
            Response(times=backlog.events // 3),
            Response(when=is_replay, times=1, after=lambda _: program.send(signal.SIGKILL)),
        )
        backlog.replay_all()
        program.wait()
    receiver.script()
    with BridgeProcess(backlog.config) as program:
        wait_until(
            lambda: bodies.keys() <= {one.event_id for one in replays(receiver) if one.accepted},
            what=lambda: f"the whole replay; there were {len(replays(receiver))} of {backlog.events}",
        )
        assert program.stop() == 0
    again = replays(receiver)
    assert all(one.body == bodies[one.event_id] for one in again)
    assert [one.unverified for one in again if one.unverified] == []
    assert len(again) <= backlog.events + 1, "recorded replays were repeated"
    assert {one.event_id for one in receiver.accepted if is_live(one)} == {
        event["id"] for _, event in stored_events(migrated_url)
    }


def replays(receiver: Receiver) -> list[Delivery]:
    return [one for one in receiver.deliveries if is_replay(one)]


@pytest.mark.slow
def test_commands_beside_the_running_program(configure: Configure, simulator: Simulator, receiver: Receiver) -> None:
    """410, a dead letter, disable, a replay of one event, enable: nothing is lost on the way."""
    with Receiver() as healthy:
        config = configure(
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
            assert len(receiver.deliveries) == calls, "the endpoint is gone"
            first = receiver.events()[0]["id"]
            command(config, "deliveries", "replay", first, "--endpoint", "crm")
            wait_until(lambda: len(receiver.deliveries) > calls, what="the replay that was requested")
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
    """Wait until the newest event is about a peer."""
    receiver.wait_for(lambda events: bool(events) and peer_of(events[-1]) == peer, peer)
