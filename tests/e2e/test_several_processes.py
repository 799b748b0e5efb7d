"""Two of each role on one PostgreSQL: the work is shared, never done by two at once, and late writes are fenced."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.harness.config import write_config
from tests.harness.database_relay import DatabaseRelay
from tests.harness.deliveries import all_problems, delivery_problems, duplicates, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(16)]

pytestmark = pytest.mark.slow


class Fleet:
    """Processes on one database, each with its own address of the upstream and its own relay to the database."""

    def __init__(
        self, stack: ExitStack, directory: Path, database_url: str, simulator: Simulator, receiver: Receiver
    ) -> None:
        self.relays: dict[str, DatabaseRelay] = {}
        self._stack = stack
        self._directory = directory
        self._database_url = database_url
        self._simulator = simulator
        self._receiver = receiver
        simulator.faults({"kind": "slow", "seconds": 0.05})

    def start(self, name: str, *roles: str, rooms: Sequence[str] = ROOMS, **source: object) -> BridgeProcess:
        """Start a process and wait until it is up."""
        relay = self._stack.enter_context(DatabaseRelay(self._database_url))
        self.relays[name] = relay
        directory = self._directory / name
        directory.mkdir()
        config = write_config(
            directory / "bridge.toml",
            database_url=relay.url,
            upstream=self._simulator.via(name),
            rooms=rooms,
            endpoints=[self._receiver.endpoint(max_concurrency=4)],
            sources={"main": {"timeout": "1s", **source}},
            delivery={"timeout": "1s"},
        )
        return self._stack.enter_context(BridgeProcess(config, *roles)).wait_ready()


def test_two_of_each_role_share_the_work_and_never_do_it_twice(
    tmp_path: Path, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver, seed: int
) -> None:
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_migrated_url, simulator, receiver)
        pollers = [fleet.start(name, "poller", max_concurrency=2) for name in ("poller-1", "poller-2")]
        senders = [fleet.start(name, "sender") for name in ("sender-1", "sender-2")]
        receiver.script(Response(delay=0.02))
        with simulator.crowd(ROOMS, seed=seed) as crowd:
            crowd.wait_for_steps(300)
            wait_until(
                lambda: all(any(sender.lines("delivery.attempted")) for sender in senders), what="work for both senders"
            )
        crowd.wait_until_delivered(receiver, postgresql_migrated_url)
        assert [process.stop() for process in (*pollers, *senders)] == [0, 0, 0, 0]
    assert simulator.upstream.overlaps == []
    assert simulator.polls(via="poller-1")
    assert simulator.polls(via="poller-2")
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []
    assert duplicates(receiver.deliveries) == []


def test_a_frozen_poller_writes_nothing_stale(
    tmp_path: Path, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    """The first poller has polled, and freezes before it can record that; the second goes on."""
    rooms = ROOMS[:4]
    for room in rooms:
        simulator.join(room, "anna")
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_migrated_url, simulator, receiver)
        first = fleet.start("first", "poller", rooms=rooms)
        fleet.start("sender", "sender", rooms=rooms)
        receiver.wait_for_count(2 * len(rooms))
        simulator.pause("first")
        wait_until(lambda: simulator.paused_rooms("first") == set(rooms), what="a paused response for every room")
        fleet.relays["first"].stall()
        simulator.resume("first")
        wait_until(lambda: fleet.relays["first"].stalled_bytes, what="a record of the polls")
        with first.frozen():
            for room in rooms:
                simulator.swap(room, leave="anna", join="bert")
            second = fleet.start("second", "poller", rooms=rooms)
            receiver.wait_for_count(4 * len(rooms))
            fleet.relays["first"].resume()
        wait_until(
            lambda: {line["room"] for line in first.lines("room.polled") if line["outcome"] == "fenced"} == set(rooms),
            what="fenced writes",
        )
        assert second.stop() == 0  # either poller may get the work: now only the first one is left
        for room in rooms:
            simulator.join(room, "cleo")
        receiver.wait_for_count(5 * len(rooms))
        wait_until(lambda: replay(receiver.events()) == {room: {"bert", "cleo"} for room in rooms})
        assert first.stop() == 0
    events = receiver.events()
    assert len(events) == 5 * len(rooms)
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []


@pytest.mark.parametrize("role", ["poller", "sender"])
def test_a_process_frozen_inside_a_transaction_does_not_stop_the_others(
    role: str, tmp_path: Path, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver, seed: int
) -> None:
    """Its locks must not outlive its registration: another process polls, and delivers, while it is frozen."""
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_migrated_url, simulator, receiver)
        frozen = fleet.start("first", role)
        fleet.start("other", "sender" if role == "poller" else "poller")
        with simulator.crowd(ROOMS, seed=seed):
            receiver.wait_for_count(20)
            fleet.start("second", role)
            stack.enter_context(frozen_inside_a_transaction(frozen, postgresql_migrated_url))
        for room in ROOMS:
            simulator.join(room, "zoe")
        receiver.wait_for(
            lambda events: (
                {event["data"]["room_id"] for event in events if event["data"].get("peer_id") == "zoe"} == set(ROOMS)
            ),
            "Zoe in every room",
        )
    assert log_problems([event for _, event in stored_events(postgresql_migrated_url)]) == []
    assert delivery_problems(receiver.deliveries) == []


@contextmanager
def frozen_inside_a_transaction(process: BridgeProcess, database_url: str) -> Iterator[None]:
    """Freeze it again and again until it has locks; it stays frozen until the block ends."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        wait_until(lambda: _freeze(process, connection), what="an instant inside a transaction")
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


def _freeze(process: BridgeProcess, connection: psycopg.Connection) -> bool:
    process.send(signal.SIGSTOP)
    locking = connection.execute(
        "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE state = 'idle in transaction' AND datname = current_database() AND mode = 'RowShareLock'"
    ).fetchone()
    if locking is not None and locking[0] > 0:
        return True
    process.send(signal.SIGCONT)
    return False


def test_a_frozen_sender_moves_no_cursor_back(
    tmp_path: Path, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    """The first sender's deliveries were accepted, but it freezes before it can record that."""
    rooms = ROOMS[:4]
    receiver.script(Response(pause=True))
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_migrated_url, simulator, receiver)
        fleet.start("poller", "poller", rooms=rooms)
        first = fleet.start("first", "sender", rooms=rooms)
        for room in rooms:
            simulator.join(room, "anna")
        wait_until(lambda: {delivery.room for delivery in receiver.deliveries} == set(rooms), what="one POST per room")
        receiver.script()
        fleet.relays["first"].stall()
        receiver.release()
        wait_until(lambda: fleet.relays["first"].stalled_bytes, what="a record of the attempts")
        with first.frozen():
            for room in rooms:
                simulator.join(room, "bert")
            fleet.start("second", "sender", rooms=rooms)
            receiver.wait_for_count(3 * len(rooms))
            fleet.relays["first"].resume()
        thawed_at = len(receiver.deliveries)
        wait_until(lambda: any(line.get("fenced") for line in first.lines("delivery.attempted")), what="a fenced write")
        for room in rooms:
            simulator.leave(room, "anna")
        receiver.wait_for_count(4 * len(rooms))
        assert first.stop() == 0
    assert {delivery.event["type"] for delivery in receiver.deliveries[thawed_at:]} == {"peer.left"}
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []
