"""`kill -9` in every phase of the bridge's work, again and again on one database: nothing is lost or invented.

Some kills come at any instant; others are aimed, and the aim is checked by what the dead process left behind, so that
the test cannot miss unnoticed. Where no process is left, its registration is removed, as it would be after some
seconds: the next process finds work to do at once. Beside another process, that one has to notice the death.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum, unique
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.forkserver import KillPoint, Moment
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import ROOM_EVENTS, Delivery, Event, Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import change, connected, rows
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(12)]
ENDPOINTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "everything": {"events": ROOM_EVENTS, "rooms": ["*"]},
    "arrivals": {"events": ["peer.joined"], "rooms": ["room-?"]},
}
REPEATS = 2
"""Events of one cursor that a kill may repeat: the one being recorded, and the one on its way meanwhile."""
ROLES = ("poller", "sender")
CATCHING_UP = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@unique
class Aim(StrEnum):
    """The moment of a kill."""

    START = "while it starts"
    ANY = "at any instant"
    POLL = "inside the transaction that records polls"
    POLL_STUCK = "the same, while PostgreSQL executes its statement"
    LOGGED = "after that transaction, before the POST"
    POSTED = "after the POST has arrived, before its response"
    RESPONDED = "after the response, before its record"
    RECORD = "inside the transaction that records attempts"
    RECORD_STUCK = "inside that one, while PostgreSQL executes its statement"
    RECORDED = "after that transaction"
    REPLAY_POSTED = "in a replay, before the response"
    REPLAY_RESPONDED = "in a replay, after the response"
    REPLAY_RECORD = "in a replay, inside the transaction that records it"


REPLAYS = {Aim.REPLAY_POSTED, Aim.REPLAY_RESPONDED, Aim.REPLAY_RECORD}


class Evidence(StrEnum):
    """Traces of a kill."""

    IN_POLL_WRITE = "died inside the transaction that records polls"
    IN_RECORD = "died inside the transaction that records attempts"
    IN_REPLAY_RECORD = "died inside the transaction that records a replay"
    UNSENT = "an event in the log that was not sent"
    UNRECORDED = "a 2xx that no cursor has"
    REPLAYING = "a replay that was claimed and not finished"
    REPEATED = "a delivery that was accepted a second time"


IN_STEP = (Moment.BEFORE, Moment.AFTER)
KILL_POINTS: Mapping[Aim, Sequence[tuple[str, Moment]]] = {
    Aim.POLL: [
        *((f"INSERT INTO {table} ", moment) for table in ("visits", "events", "cursors") for moment in IN_STEP),
        ("INSERT INTO events ", Moment.COMMIT),
    ],
    Aim.LOGGED: [("INSERT INTO events ", Moment.COMMITTED)],
    Aim.RECORD: [
        *(("UPDATE cursors SET acked", moment) for moment in (*IN_STEP, Moment.COMMIT)),
        ("INSERT INTO attempts ", Moment.AFTER),
    ],
    Aim.RECORDED: [("UPDATE cursors SET acked", Moment.COMMITTED)],
    Aim.REPLAY_RECORD: [
        *(("UPDATE redeliveries SET .*tries", moment) for moment in (*IN_STEP, Moment.COMMIT)),
        ("DELETE FROM dead_letters", Moment.AFTER),
    ],
}
STUCK: Mapping[Aim, Sequence[tuple[str, str]]] = {
    Aim.POLL_STUCK: [("events", "INSERT INTO events "), ("cursors", "INSERT INTO cursors ")],
    Aim.RECORD_STUCK: [("attempts", "INSERT INTO attempts ")],
}
"""The table that is locked, and the statement that then waits: after others in its transaction."""
INSIDE: Mapping[Aim, Evidence] = {
    Aim.POLL: Evidence.IN_POLL_WRITE,
    Aim.POLL_STUCK: Evidence.IN_POLL_WRITE,
    Aim.RECORD: Evidence.IN_RECORD,
    Aim.RECORD_STUCK: Evidence.IN_RECORD,
    Aim.REPLAY_RECORD: Evidence.IN_REPLAY_RECORD,
}
ACKED = (
    "SELECT endpoints.name, upstream_id, acked FROM cursors"
    " JOIN endpoints ON endpoints.id = endpoint_key JOIN rooms ON rooms.id = room_key"
)
REPLAYING = "SELECT id FROM redeliveries WHERE state = 'owed' AND claim_token IS NOT NULL"
CHAIN = (
    "SELECT room_key, sequence, salt, body, hash, last_sequence, chain_head FROM events"
    " JOIN rooms ON rooms.id = room_key ORDER BY room_key, sequence"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Numbers of kills by aim: of one process with both roles, and of one of two; and the evidence to be seen."""

    sqlite: Mapping[Aim, int]
    postgresql: Mapping[Aim, int]
    two_on_postgresql: Mapping[Aim, int]
    least: Mapping[Evidence, int]


ON_SQLITE = [aim for aim in Aim if aim not in STUCK]
SHORT = Plan(
    sqlite=dict.fromkeys(ON_SQLITE, 1) | {Aim.START: 3},
    postgresql=dict.fromkeys(Aim, 1),
    two_on_postgresql={Aim.ANY: 2, Aim.POLL_STUCK: 1, Aim.RECORD_STUCK: 1, Aim.REPLAY_RESPONDED: 1},
    least={Evidence.IN_POLL_WRITE: 1, Evidence.IN_RECORD: 1, Evidence.IN_REPLAY_RECORD: 1, Evidence.UNRECORDED: 1},
)
LONG = Plan(
    sqlite={
        Aim.START: 16, Aim.ANY: 54, Aim.POLL: 30, Aim.LOGGED: 14, Aim.POSTED: 15, Aim.RESPONDED: 23, Aim.RECORD: 18,
        Aim.RECORDED: 6, Aim.REPLAY_POSTED: 8, Aim.REPLAY_RESPONDED: 8, Aim.REPLAY_RECORD: 8,
    },
    postgresql={
        Aim.START: 10, Aim.ANY: 36, Aim.POLL: 18, Aim.POLL_STUCK: 8, Aim.LOGGED: 10, Aim.POSTED: 10, Aim.RESPONDED: 16,
        Aim.RECORD: 12, Aim.RECORD_STUCK: 8, Aim.RECORDED: 4, Aim.REPLAY_POSTED: 6, Aim.REPLAY_RESPONDED: 6,
        Aim.REPLAY_RECORD: 6,
    },
    two_on_postgresql={
        Aim.START: 4, Aim.ANY: 18, Aim.POLL_STUCK: 8, Aim.POSTED: 4, Aim.RESPONDED: 5, Aim.RECORD_STUCK: 6,
        Aim.REPLAY_POSTED: 2, Aim.REPLAY_RESPONDED: 3,
    },
    least={
        Evidence.IN_POLL_WRITE: 20, Evidence.IN_RECORD: 15, Evidence.IN_REPLAY_RECORD: 5, Evidence.UNSENT: 20,
        Evidence.UNRECORDED: 20, Evidence.REPLAYING: 10, Evidence.REPEATED: 20,
    },
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Victims:
    """The processes that live and die on one database, and the evidence of their ends."""

    config: Path
    calm: Path
    """The same without reconciliation, which would go on appending events while the deliveries are compared."""
    database_url: str
    receiver: Receiver
    rng: Random
    kills: int = 0
    evidence: Counter[Evidence] = field(default_factory=Counter)
    replays: dict[tuple[str, str], int] = field(default_factory=dict)
    """Endpoint and event of every replay so far, and the number of requests before it."""
    running: dict[tuple[str, ...], BridgeProcess] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)
    _arrived: int = 0
    """Ids in the log, and the number of requests, at the kill before."""

    def start(self, roles: tuple[str, ...], kill_point: KillPoint | None = None) -> BridgeProcess:
        """Return the process with these roles: one that is still alive, or a new one."""
        if roles not in self.running:
            self.running[roles] = BridgeProcess(self.config, *roles, kill_point=kill_point)
        return self.running[roles]

    def kill_one(self, aim: Aim) -> None:
        """Kill a process with both roles."""
        if aim in REPLAYS:
            self.replay_some()
        kill_point = self._kill_point(aim) if aim in KILL_POINTS else None
        with self._noted(f"{aim}, {kill_point}"):
            self._kill(aim, ROLES, self.start(ROLES, kill_point))
            self._examine(ROLES)

    def kill_one_of_two(self, aim: Aim) -> None:
        """Kill one of two processes, a poller and a sender; at any instant perhaps both."""
        if aim in REPLAYS:
            self.replay_some()
        victim = "poller" if aim is Aim.POLL_STUCK else self.rng.choice(ROLES) if aim is Aim.ANY else "sender"
        victims = ROLES if aim is Aim.ANY and self.rng.random() < 1 / 3 else (victim,)
        processes = {role: self.start((role,)) for role in ROLES}
        if aim in STUCK:  # else the other might wait for the same lock while it starts, and the victim for the other
            for process in processes.values():
                process.wait_ready()
        with self._noted(f"{aim}, {victims}"):
            self._kill(aim, (victim,), processes[victim])
            for role in victims:
                if role != victim:
                    processes[role].kill()
                    del self.running[role,]
            self._examine(victims)

    @contextmanager
    def _noted(self, kill: str) -> Iterator[None]:
        number = self.kills + 1
        try:
            yield
        except AssertionError as error:
            error.add_note(f"kill {number}: {kill}")
            raise

    def replay_some(self) -> None:
        """Replay some events that were accepted, by the real command."""
        name = self.rng.choice(list(ENDPOINTS))
        events = list(dict.fromkeys(one.event_id for one in self.receiver.accepted if addressee(one) == name))
        chosen = self.rng.sample(events, min(len(events), self.rng.randrange(1, 6)))
        arrived = len(self.receiver.deliveries)
        command(self.config, "deliveries", "replay", "--endpoint", name, *chosen)
        self.replays |= {(name, event_id): arrived for event_id in chosen}

    def _kill_point(self, aim: Aim) -> KillPoint:
        statement, moment = self.rng.choice(KILL_POINTS[aim])
        return KillPoint(statement=statement, moment=moment, skip=0 if aim in REPLAYS else self.rng.randrange(3))

    def _kill(self, aim: Aim, roles: tuple[str, ...], victim: BridgeProcess) -> None:
        match aim:
            case Aim.START:
                time.sleep(self.rng.uniform(0, 0.15))
            case Aim.ANY:
                victim.wait_ready()
                time.sleep(self.rng.uniform(0.1, 0.6))
            case Aim.POSTED | Aim.REPLAY_POSTED:
                self._on_request(aim, Response(times=1, reset=True, before=lambda _: victim.send(signal.SIGKILL)))
                victim.wait()
            case Aim.RESPONDED | Aim.REPLAY_RESPONDED:
                self._on_request(aim, Response(times=1, after=lambda _: victim.send(signal.SIGKILL)))
                victim.wait()
            case Aim.POLL_STUCK | Aim.RECORD_STUCK:
                victim.wait_ready()
                with stuck(self.database_url, *self.rng.choice(STUCK[aim])):
                    victim.kill()
            case Aim.POLL | Aim.LOGGED | Aim.RECORD | Aim.RECORDED | Aim.REPLAY_RECORD:
                victim.wait()
                assert victim.killed_itself, victim.output
        victim.kill()
        assert victim.wait() == -signal.SIGKILL, f"it ended by itself, {aim}: {victim.log}\n{victim.output[-6000:]}"
        self.receiver.script()
        self.kills += 1
        self.evidence.update([INSIDE[aim]] if aim in INSIDE else [])
        del self.running[roles]

    def _on_request(self, aim: Aim, kill: Response) -> None:
        """Kill at the first request of a replay, or at a live one after a few others."""
        if aim in REPLAYS:
            kill.when = is_replay
            self.receiver.script(kill)
        else:
            kill.when = is_live
            self.receiver.script(Response(times=self.rng.randrange(6)), kill)

    def _examine(self, victims: Sequence[str]) -> None:
        """Find what the dead left behind; if none is alive, remove their registrations."""
        with connected(self.database_url) as connection:
            if not connection.dialect.has_table(connection, "redeliveries"):
                return
        if "sender" in victims:
            self._examine_sender()
        if not self.running:
            change(self.database_url, "DELETE FROM workers")

    def _examine_sender(self) -> None:
        logged = {event_id for (event_id,) in rows(self.database_url, "SELECT public_id FROM events")}
        acked = {(name, room): sequence for name, room, sequence in rows(self.database_url, ACKED)}
        live = [one for one in self.receiver.deliveries[self._arrived :] if is_live(one)]
        unrecorded = [one for one in live if one.accepted and sequence_of(one) > acked[addressee(one), one.room]]
        self._found(Evidence.UNSENT, logged - self._logged - {one.event_id for one in live})
        self._found(Evidence.UNRECORDED, unrecorded)
        self._found(Evidence.REPLAYING, rows(self.database_url, REPLAYING))
        self._logged, self._arrived = logged, len(self.receiver.deliveries)
        repeats = Counter(
            (name, room) for name, room, _ in {(addressee(one), one.room, one.event_id) for one in unrecorded}
        )
        assert max(repeats.values(), default=0) <= REPEATS, f"one kill will repeat more events of a cursor: {repeats}"

    def _found(self, evidence: Evidence, traces: object) -> None:
        self.evidence.update([evidence] if traces else [])

    def problems(self, truth: Mapping[str, set[str]]) -> list[str]:
        """Return what is not yet, or not at all, as it must be in the end."""
        stored = stored_events(self.database_url)
        present = replay(event for _, event in stored)
        return [
            *(f"{room}: {sorted(wrong)}" for room in ROOMS if (wrong := truth[room] ^ present.get(room, set()))),
            *(problem for name in ENDPOINTS for problem in self.differences(name, stored)),
            *(f"{event_id} was not sent to {name} again" for name, event_id in self.missing_replays()),
        ]

    def differences(self, name: str, stored: Sequence[tuple[bytes, Event]]) -> list[str]:
        """Compare the deliveries that an endpoint has accepted with the events of the log that it wants."""
        wanted = [(body, event) for body, event in stored if wants(name, event)]
        mine = [one for one in self.receiver.deliveries if addressee(one) == name]
        return difference_from_log(mine, wanted)

    def missing_replays(self) -> set[tuple[str, str]]:
        """Return the replays that were not accepted since they were requested."""
        arrived: dict[tuple[str, str], int] = {}
        for one in self.receiver.accepted:
            if is_replay(one):
                arrived[addressee(one), one.event_id] = one.number
        return {key for key, before in self.replays.items() if arrived.get(key, 0) <= before}


def addressee(delivery: Delivery) -> str:
    return delivery.path.removeprefix("/")


def sequence_of(delivery: Delivery) -> int:
    sequence: int = delivery.event["data"]["sequence"]
    return sequence


def is_replay(delivery: Delivery) -> bool:
    return delivery.headers.get("bridge-replay") == "true"


def is_live(delivery: Delivery) -> bool:
    return not is_replay(delivery)


def wants(name: str, event: Event) -> bool:
    wanted = ENDPOINTS[name]
    return any(fnmatchcase(event["type"], glob) for glob in wanted["events"]) and any(
        fnmatchcase(event["data"]["room_id"], glob) for glob in wanted["rooms"]
    )


@contextmanager
def stuck(database_url: str, table: str, statement: str) -> Iterator[None]:
    """Lock a table until a process waits for it, in a transaction, with this statement; then run the block."""
    waiting = sql.SQL(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND backend_xid IS NOT NULL AND starts_with(query, {})"
    ).format(statement)
    with psycopg.connect(database_url) as locking, psycopg.connect(database_url, autocommit=True) as onlooker:
        locking.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(table)))
        wait_until(lambda: onlooker.execute(waiting).fetchone(), what=f"{statement} that waits for a lock")
        yield
        locking.rollback()


def shuffled(aims: Mapping[Aim, int], rng: Random) -> list[Aim]:
    drawn = list(Counter(aims).elements())
    rng.shuffle(drawn)
    return drawn


@pytest.fixture(params=["sqlite", "postgresql"])
def start_url(request: pytest.FixtureRequest) -> str:
    """A database that `bridge run` starts on: SQLite is migrated by the first start, PostgreSQL has been."""
    name = "sqlite_database_url" if request.param == "sqlite" else "postgresql_migrated_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def victims(tmp_path: Path, start_url: str, simulator: Simulator, receiver: Receiver, seed: int) -> Iterator[Victims]:
    def configure(name: str, **attendance: object) -> Path:
        return write_config(
            tmp_path / name,
            database_url=start_url,
            upstream=simulator.url,
            rooms=ROOMS,
            endpoints=[receiver.endpoint(name, **wanted) for name, wanted in ENDPOINTS.items()],
            sources={"main": {"timeout": "2s"}},
            delivery={"timeout": "2s"},
            attendance=attendance,
        )

    victims = Victims(
        config=configure("bridge.toml", reconcile_after="2s"),
        calm=configure("calm.toml", reconcile=False),
        database_url=start_url,
        receiver=receiver,
        rng=Random(seed),  # noqa: S311 - instants want a seed, not secrecy
    )
    yield victims
    for survivor in victims.running.values():
        survivor.kill()


@pytest.mark.parametrize(
    "plan", [pytest.param(SHORT, id="each aim"), pytest.param(LONG, id="two hundred", marks=pytest.mark.campaign)]
)
def test_kills_in_every_phase_lose_nothing_and_invent_nothing(
    victims: Victims, plan: Plan, simulator: Simulator, seed: int
) -> None:
    on_sqlite = victims.database_url.startswith("sqlite")
    with simulator.crowd(ROOMS, seed=seed, rate=16) as crowd:
        run_until_there_is_something_to_replay(victims)
        for aim in shuffled(plan.sqlite if on_sqlite else plan.postgresql, victims.rng):
            victims.kill_one(aim)
        for aim in [] if on_sqlite else shuffled(plan.two_on_postgresql, victims.rng):
            victims.kill_one_of_two(aim)
    for survivor in victims.running.values():
        survivor.kill()
    with BridgeProcess(victims.calm) as program:
        simulator.wait_for_polls(2, *ROOMS, timeout=CATCHING_UP)
        wait_until(
            lambda: not victims.problems(crowd.truth()),
            timeout=CATCHING_UP,
            what=lambda: str(victims.problems(crowd.truth())[:20]),
        )
        assert program.stop() == 0
    check_log(victims, simulator)
    check_deliveries(victims)
    check_aim(victims, plan)


def run_until_there_is_something_to_replay(victims: Victims) -> None:
    """The very first process is short-lived enough to die in the migration of SQLite."""
    victims.kill_one(Aim.START)
    with BridgeProcess(victims.config) as first:
        victims.receiver.wait_for_count(20)
        assert first.stop() == 0


def check_log(victims: Victims, simulator: Simulator) -> None:
    """The log is gapless and chained, and has no more joins and leaves than there were."""
    log = [event for _, event in stored_events(victims.database_url)]
    assert log_problems(log) == []
    assert chain_problems(rows(victims.database_url, CHAIN)) == []
    visits = [(room, visit) for room in ROOMS for visit in simulator.visits(room)]
    for event_type, causes in (
        ("peer.joined", [(room, visit.peer_id) for room, visit in visits]),
        ("peer.left", [(room, visit.peer_id) for room, visit in visits if visit.left_at is not None]),
    ):
        logged = Counter(
            (event["data"]["room_id"], event["data"]["peer_id"]) for event in log if event["type"] == event_type
        )
        assert logged - Counter(causes) == Counter(), f"{event_type} without its cause"


def chain_problems(found: Sequence[Any]) -> list[str]:
    """Return gaps in a room's numbers and hashes that do not follow from the bodies, the room's own row included."""
    heads: dict[int, tuple[int, bytes]] = defaultdict(lambda: (0, bytes(32)))
    ends: dict[int, tuple[int, bytes]] = {}
    problems = []
    for room, sequence, salt, body, stored, last_sequence, chain_head in found:
        number, head = heads[room]
        commitment = hashlib.sha256(bytes(salt) + bytes(body)).digest()
        numbered = (number + 1).to_bytes(8, "big")
        heads[room] = (number + 1, hashlib.sha256(head + numbered + commitment).digest())
        ends[room] = (last_sequence, bytes(chain_head))
        if (sequence, bytes(stored)) != heads[room]:
            problems.append(f"room {room}, event {sequence}")
    return problems + [f"room {room} ends elsewhere" for room, end in ends.items() if end != heads[room]]


def check_deliveries(victims: Victims) -> None:
    """All wanted events and no others, with the same bytes, first in the order of the log."""
    stored = stored_events(victims.database_url)
    bodies = {event["id"]: body for body, event in stored}
    deliveries = victims.receiver.deliveries
    assert [one.number for one in deliveries if one.unverified or one.body != bodies.get(one.event_id)] == []
    assert delivery_problems([one for one in deliveries if addressee(one) == "everything"]) == []
    first: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for one in deliveries:
        sequences = first[addressee(one), one.room]
        if sequence_of(one) not in sequences:
            sequences.append(sequence_of(one))
    assert [key for key, sequences in first.items() if sequences != sorted(sequences)] == []
    assert [name for name in ENDPOINTS if victims.differences(name, stored)] == []
    assert victims.missing_replays() == set()


def check_aim(victims: Victims, plan: Plan) -> None:
    """Every phase was hit, according to the evidence."""
    seen: set[tuple[str, str]] = set()
    for one in victims.receiver.accepted:
        victims.evidence[Evidence.REPEATED] += is_live(one) and (addressee(one), one.event_id) in seen
        seen.add((addressee(one), one.event_id))
    found = victims.evidence
    print(victims.kills, "kills;", {str(evidence): count for evidence, count in found.items()})  # noqa: T201
    assert {evidence: found[evidence] for evidence, least in plan.least.items() if found[evidence] < least} == {}
