"""Two of every role on one PostgreSQL: the work is shared, never done by two at once, and late writes are fenced."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.harness.busy_rooms import BusyRooms
from tests.harness.config import write_config
from tests.harness.database_wire import DatabaseWire
from tests.harness.deliveries import delivery_problems, difference_from_log, duplicates, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.upstream_gate import Journal, UpstreamGate
from tests.harness.waiting import wait_until

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(16)]
LEASES_LAPSE = 90.0
"""Seconds within which a dead process's claims are somebody else's."""

pytestmark = pytest.mark.slow


class Fleet:
    """Processes on one database, each with a gate to the upstream and a wire to the database of its own."""

    def __init__(self, stack: ExitStack, directory: Path, database_url: str, upstream: str, receiver: Receiver) -> None:
        self.journal = Journal()
        self.gates: dict[str, UpstreamGate] = {}
        self.wires: dict[str, DatabaseWire] = {}
        self._stack = stack
        self._directory = directory
        self._database_url = database_url
        self._upstream = upstream
        self._receiver = receiver

    def start(self, name: str, *roles: str, rooms: Sequence[str] = ROOMS, **source: object) -> BridgeProcess:
        """Start a process and wait until it is up."""
        gate = self._stack.enter_context(UpstreamGate(name, self._upstream, self.journal, latency=0.05))
        wire = self._stack.enter_context(DatabaseWire(self._database_url))
        self.gates[name], self.wires[name] = gate, wire
        place = self._directory / name
        place.mkdir()
        config = write_config(
            place / "bridge.toml",
            database_url=wire.url,
            upstream=gate.url,
            rooms=rooms,
            endpoints=[self._receiver.endpoint(max_concurrency=4)],
            sources={"main": {"timeout": "1s", **source}},
            delivery={"timeout": "1s"},
        )
        return self._stack.enter_context(BridgeProcess(config, *roles)).wait_ready()


def test_two_of_each_role_share_the_work_and_never_do_it_twice(
    tmp_path: Path, postgresql_ready_url: str, simulator: SimulatorClient, receiver: Receiver, seed: int
) -> None:
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_ready_url, simulator.url, receiver)
        pollers = [fleet.start(name, "poller", max_concurrency=2) for name in ("poller-1", "poller-2")]
        senders = [fleet.start(name, "sender") for name in ("sender-1", "sender-2")]
        receiver.script(Response(delay=0.02))
        with BusyRooms(simulator, ROOMS, seed=seed) as busy:
            busy.wait_for_steps(300)
            wait_until(
                lambda: all(any(sender.lines("delivery.attempted")) for sender in senders), what="work for both senders"
            )
        wait_until(
            lambda: {room: set() for room in ROOMS} | replay(receiver.events()) == busy.truth(), what="the whole truth"
        )
        assert [process.stop() for process in (*pollers, *senders)] == [0, 0, 0, 0]
    assert fleet.journal.overlaps == []
    for gate in ("poller-1", "poller-2"):
        assert sum(fleet.journal.count(gate, room) for room in ROOMS) > 0
    stored = stored_events(postgresql_ready_url)
    assert log_problems([event for _, event in stored]) == []
    assert difference_from_log(receiver.deliveries, stored) == []
    assert delivery_problems(receiver.deliveries) == []
    assert duplicates(receiver.deliveries) == []


def test_a_poller_frozen_past_its_lease_writes_nothing_stale(
    tmp_path: Path, postgresql_ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    """The first poller has seen the old runtime and is about to write it down when it freezes; the second goes on."""
    rooms = ROOMS[:4]
    for room in rooms:
        simulator.join(room, "anna")
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_ready_url, simulator.url, receiver)
        first = fleet.start("first", "poller", rooms=rooms)
        fleet.start("sender", "sender", rooms=rooms)
        receiver.wait_for_count(2 * len(rooms))
        fleet.gates["first"].hold()
        wait_until(lambda: fleet.journal.waiting("first") == set(rooms), what="every room's response at the gate")
        fleet.wires["first"].stall()
        fleet.gates["first"].release()
        wait_until(lambda: fleet.wires["first"].stalled_bytes, what="something to write down")
        with first.frozen():
            for room in rooms:
                simulator.swap(room, leave="anna", join="bert")
            second = fleet.start("second", "poller", rooms=rooms)
            receiver.wait_for_count(4 * len(rooms), timeout=LEASES_LAPSE)
            fleet.wires["first"].flow()
        wait_until(
            lambda: {line["room"] for line in first.lines("room.polled") if line["outcome"] == "fenced"} == set(rooms),
            what="fenced writes",
        )
        assert second.stop() == 0  # who of two pollers gets the work is nobody's promise: now it is the first's alone
        for room in rooms:
            simulator.join(room, "cleo")
        receiver.wait_for_count(5 * len(rooms))
        wait_until(lambda: replay(receiver.events()) == {room: {"bert", "cleo"} for room in rooms})
        assert first.stop() == 0
    events = receiver.events()
    assert len(events) == 5 * len(rooms)
    assert log_problems(events) == []
    assert difference_from_log(receiver.deliveries, stored_events(postgresql_ready_url)) == []


@pytest.mark.parametrize("role", ["poller", "sender"])
def test_a_process_frozen_inside_a_transaction_does_not_stop_the_others(
    role: str, tmp_path: Path, postgresql_ready_url: str, simulator: SimulatorClient, receiver: Receiver, seed: int
) -> None:
    """Its locks must not outlive its leases: somebody else polls, and delivers, while it sleeps with them."""
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_ready_url, simulator.url, receiver)
        frozen = fleet.start("first", role)
        for name in ("poller", "sender"):
            if name != role:
                fleet.start(name, name)
        with BusyRooms(simulator, ROOMS, seed=seed):
            receiver.wait_for_count(20)
            stack.enter_context(frozen_inside_a_transaction(frozen, postgresql_ready_url))
        fleet.start("second", role)
        for room in ROOMS:
            simulator.join(room, "zoe")
        receiver.wait_for(
            lambda events: (
                {event["data"]["room_id"] for event in events if event["data"].get("peer_id") == "zoe"} == set(ROOMS)
            ),
            "Zoe in every room",
            timeout=LEASES_LAPSE,
        )
    assert log_problems([event for _, event in stored_events(postgresql_ready_url)]) == []
    assert delivery_problems(receiver.deliveries) == []


@contextmanager
def frozen_inside_a_transaction(process: BridgeProcess, database_url: str) -> Iterator[None]:
    """Freeze it again and again until it happens to hold locks; it sleeps until the block ends."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        wait_until(lambda: _freeze(process, connection), what="an instant inside a transaction")
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


def _freeze(process: BridgeProcess, connection: psycopg.Connection) -> bool:
    process.send(signal.SIGSTOP)
    holders = connection.execute(
        "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE state = 'idle in transaction' AND datname = current_database() AND mode = 'RowShareLock'"
    ).fetchone()
    if holders is not None and holders[0] > 0:
        return True
    process.send(signal.SIGCONT)
    return False


def test_a_sender_frozen_past_its_lease_moves_no_cursor_back(
    tmp_path: Path, postgresql_ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    """The first sender's deliveries were accepted, but it freezes before it can write that down."""
    rooms = ROOMS[:4]
    receiver.script(Response(hold=True))
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, postgresql_ready_url, simulator.url, receiver)
        fleet.start("poller", "poller", rooms=rooms)
        first = fleet.start("first", "sender", rooms=rooms)
        for room in rooms:
            simulator.join(room, "anna")
        wait_until(lambda: {delivery.room for delivery in receiver.deliveries} == set(rooms), what="one POST per room")
        receiver.script()
        fleet.wires["first"].stall()
        receiver.release()
        wait_until(lambda: fleet.wires["first"].stalled_bytes, what="something to write down")
        with first.frozen():
            for room in rooms:
                simulator.join(room, "bert")
            fleet.start("second", "sender", rooms=rooms)
            receiver.wait_for_count(3 * len(rooms), timeout=LEASES_LAPSE)
            fleet.wires["first"].flow()
        thawed_at = len(receiver.deliveries)
        wait_until(lambda: any(line.get("fenced") for line in first.lines("delivery.attempted")), what="a fenced write")
        for room in rooms:
            simulator.leave(room, "anna")
        receiver.wait_for_count(4 * len(rooms))
        assert first.stop() == 0
    assert {delivery.event["type"] for delivery in receiver.deliveries[thawed_at:]} == {"peer.left"}
    assert delivery_problems(receiver.deliveries) == []
    assert difference_from_log(receiver.deliveries, stored_events(postgresql_ready_url)) == []
