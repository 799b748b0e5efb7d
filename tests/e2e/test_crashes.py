"""`kill -9` in every phase of the bridge's work, 200 times on one database, and nothing is lost or invented.

Some kills come at any instant; others are aimed, and the aim is checked by what the dead left behind, so that this
cannot become toothless unnoticed. Between two lives the claims of the dead are made to lapse at once: their rows then
read_health as they would when the lease is over, and the next life finds work to do.
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
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from tests.harness.busy_rooms import BusyRooms
from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.forkserver import Child, Fuse, Moment, Nursery
from tests.harness.log import log_problems, replay
from tests.harness.receiver import ROOM_EVENTS, Delivery, Event, Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(12)]
ENDPOINTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "everything": {"events": ROOM_EVENTS, "rooms": ["*"]},
    "arrivals": {"events": ["peer.joined"], "rooms": ["room-?"]},
}
KILLS = 200
REPEATS = 2
"""How many events of one line a crash may repeat at most: the one being recorded, and the one on its way meanwhile."""
LONG_AGO = "2000-01-01 00:00:00.000000"
CLAIMS: Mapping[str, Sequence[tuple[str, str]]] = {
    "poller": [("rooms", "next_poll_at")],
    "sender": [("cursors", "next_attempt_at"), ("redeliveries", "next_attempt_at")],
}
"""What each role claims, and the column that says until when."""
ROLES = tuple(CLAIMS)
CATCHING_UP = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@unique
class Aim(StrEnum):
    """What a kill is aimed at."""

    START = "while it starts"
    ANY = "at any instant"
    POLL = "inside the transaction that writes polls down"
    POLL_STUCK = "the same, while PostgreSQL executes its statement"
    LOGGED = "after that transaction, before the POST"
    POSTED = "after the POST has arrived, before its response"
    ANSWERED = "after the response, before its record"
    SETTLEMENT = "inside the transaction that records deliveries"
    SETTLEMENT_STUCK = "inside that one, while PostgreSQL executes its statement"
    SETTLED = "after that transaction"
    REPLAY_POSTED = "in a replay, before the response"
    REPLAY_ANSWERED = "in a replay, after the response"
    REPLAY_RECORD = "in a replay, inside the transaction that records it"


REPLAYS = {Aim.REPLAY_POSTED, Aim.REPLAY_ANSWERED, Aim.REPLAY_RECORD}


class Evidence(StrEnum):
    """What a kill is seen to have done, by what it left behind."""

    IN_POLL_WRITE = "died inside the transaction that writes polls down"
    IN_SETTLEMENT = "died inside the transaction that records deliveries"
    IN_REPLAY_RECORD = "died inside the transaction that records a replay"
    UNSENT = "an event in the log that nobody was told"
    UNRECORDED = "a 2xx that no cursor knows of"
    REPLAYING = "a replay that was claimed and not finished"
    REPEATED = "a delivery accepted a second time"


ONE_PROCESS: Mapping[Aim, int] = {
    Aim.START: 12, Aim.ANY: 54, Aim.POLL: 30, Aim.LOGGED: 14, Aim.POSTED: 15, Aim.ANSWERED: 23, Aim.SETTLEMENT: 18,
    Aim.SETTLED: 6, Aim.REPLAY_POSTED: 8, Aim.REPLAY_ANSWERED: 8, Aim.REPLAY_RECORD: 8,
}  # fmt: skip
ONE_PROCESS_ON_POSTGRESQL: Mapping[Aim, int] = {
    Aim.START: 6, Aim.ANY: 36, Aim.POLL: 18, Aim.POLL_STUCK: 8, Aim.LOGGED: 10, Aim.POSTED: 10, Aim.ANSWERED: 16,
    Aim.SETTLEMENT: 12, Aim.SETTLEMENT_STUCK: 8, Aim.SETTLED: 4, Aim.REPLAY_POSTED: 6, Aim.REPLAY_ANSWERED: 6,
    Aim.REPLAY_RECORD: 6,
}  # fmt: skip
TWO_PROCESSES: Mapping[Aim, int] = {
    Aim.START: 4, Aim.ANY: 18, Aim.POLL_STUCK: 8, Aim.POSTED: 4, Aim.ANSWERED: 5, Aim.SETTLEMENT_STUCK: 6,
    Aim.REPLAY_POSTED: 2, Aim.REPLAY_ANSWERED: 3,
}  # fmt: skip
IN_STEP = (Moment.BEFORE, Moment.AFTER)
FUSES: Mapping[Aim, Sequence[tuple[str, Moment]]] = {
    Aim.POLL: [
        *((f"INSERT INTO {table} ", moment) for table in ("visits", "events", "cursors") for moment in IN_STEP),
        ("INSERT INTO events ", Moment.COMMIT),
    ],
    Aim.LOGGED: [("INSERT INTO events ", Moment.COMMITTED)],
    Aim.SETTLEMENT: [
        *(("UPDATE cursors SET acked", moment) for moment in (*IN_STEP, Moment.COMMIT)),
        ("UPDATE endpoints SET .*probes", Moment.AFTER),
    ],
    Aim.SETTLED: [("UPDATE cursors SET acked", Moment.COMMITTED)],
    Aim.REPLAY_RECORD: [
        *(("UPDATE redeliveries SET .*tries", moment) for moment in (*IN_STEP, Moment.COMMIT)),
        ("DELETE FROM dead_letters", Moment.AFTER),
    ],
}
STUCK: Mapping[Aim, Sequence[tuple[str, str]]] = {
    Aim.POLL_STUCK: [("events", "INSERT INTO events "), ("cursors", "INSERT INTO cursors ")],
    Aim.SETTLEMENT_STUCK: [("attempts", "INSERT INTO attempts "), ("endpoints", "UPDATE endpoints ")],
}
"""Which table is locked, and which statement then waits: after others in its transaction."""
INSIDE: Mapping[Aim, Evidence] = {
    Aim.POLL: Evidence.IN_POLL_WRITE,
    Aim.POLL_STUCK: Evidence.IN_POLL_WRITE,
    Aim.SETTLEMENT: Evidence.IN_SETTLEMENT,
    Aim.SETTLEMENT_STUCK: Evidence.IN_SETTLEMENT,
    Aim.REPLAY_RECORD: Evidence.IN_REPLAY_RECORD,
}
LEAST: Mapping[Evidence, int] = {
    Evidence.IN_POLL_WRITE: 20,
    Evidence.IN_SETTLEMENT: 15,
    Evidence.IN_REPLAY_RECORD: 5,
    Evidence.UNSENT: 20,
    Evidence.UNRECORDED: 20,
    Evidence.REPLAYING: 10,
    Evidence.REPEATED: 20,
}
"""How often each must have been seen."""
ACKED = text(
    "SELECT endpoints.name, upstream_id, acked FROM cursors"
    " JOIN endpoints ON endpoints.id = endpoint_key JOIN rooms ON rooms.id = room_key"
)
REPLAYING = text(
    "SELECT count(*) FROM redeliveries WHERE state = 'owed' AND claim_token IS NOT NULL AND next_attempt_at > :then"
)
CHAIN = text(
    "SELECT room_key, sequence, body, hash, last_sequence, chain_head FROM events JOIN rooms ON rooms.id = room_key"
    " ORDER BY room_key, sequence"
)


@dataclass(slots=True, kw_only=True)
class Scene:
    """One database, the lives on it, and what has been seen of their ends."""

    config: Path
    database_url: str
    engine: Engine
    nursery: Nursery
    receiver: Receiver
    chance: Random
    kills: int = 0
    evidence: Counter[Evidence] = field(default_factory=Counter)
    asked: dict[tuple[str, str], int] = field(default_factory=dict)
    """Endpoint and event of every replay that was asked for, and how many requests had arrived by then."""
    running: dict[tuple[str, ...], Child] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)
    _arrived: int = 0
    """Ids in the log, and how many requests there had been, at the kill before."""

    def start(self, roles: tuple[str, ...], fuse: Fuse | None = None) -> Child:
        """The process with these roles; one that is still alive from before will do."""
        if roles not in self.running:
            chosen = [argument for role in roles for argument in ("--role", role)]
            self.running[roles] = self.nursery.fork("run", "--config", str(self.config), *chosen, fuse=fuse)
        return self.running[roles]

    def strike(self, aim: Aim) -> None:
        """One process with both roles lives and dies."""
        if aim in REPLAYS:
            self.ask_for_replays()
        fuse = self._fuse(aim) if aim in FUSES else None
        with self._noted(f"{aim}, {fuse}"):
            self._kill(aim, ROLES, self.start(ROLES, fuse))
            self._look_after(ROLES)

    def strike_one_of_two(self, aim: Aim) -> None:
        """Poller and sender are processes of their own; one of them dies, or at any instant both."""
        if aim in REPLAYS:
            self.ask_for_replays()
        victim = "poller" if aim is Aim.POLL_STUCK else self.chance.choice(ROLES) if aim is Aim.ANY else "sender"
        victims = ROLES if aim is Aim.ANY and self.chance.random() < 1 / 3 else (victim,)
        children = {role: self.start((role,)) for role in ROLES}
        if aim in STUCK:  # else the other might wait for the same lock, while it starts, and the victim for the other
            for child in children.values():
                child.wait_ready()
        with self._noted(f"{aim}, {victims}"):
            self._kill(aim, (victim,), children[victim])
            for role in victims:
                if role != victim:
                    children[role].kill()
                    del self.running[role,]
            self._look_after(victims)

    @contextmanager
    def _noted(self, strike: str) -> Iterator[None]:
        assign_sequences = self.kills + 1
        try:
            yield
        except AssertionError as error:
            error.add_note(f"kill {assign_sequences}: {strike}")
            raise

    def ask_for_replays(self) -> None:
        """Have some events that were accepted sent again, by the real command."""
        name = self.chance.choice(list(ENDPOINTS))
        events = list(dict.fromkeys(one.event_id for one in self.receiver.accepted if addressee(one) == name))
        chosen = self.chance.sample(events, min(len(events), self.chance.randrange(1, 6)))
        mark = len(self.receiver.deliveries)
        self.nursery.run("deliveries", "replay", "--config", str(self.config), "--endpoint", name, *chosen)
        self.asked |= {(name, event_id): mark for event_id in chosen}

    def _fuse(self, aim: Aim) -> Fuse:
        statement, moment = self.chance.choice(FUSES[aim])
        passing = 0 if aim in REPLAYS else self.chance.randrange(3)
        return Fuse(statement=statement, moment=moment, passing=passing)

    def _kill(self, aim: Aim, roles: tuple[str, ...], victim: Child) -> None:
        match aim:
            case Aim.START:
                time.sleep(self.chance.uniform(0, 0.15))
            case Aim.ANY:
                victim.wait_ready()
                time.sleep(self.chance.uniform(0.1, 0.6))
            case Aim.POSTED | Aim.REPLAY_POSTED:
                self._on_request(aim, Response(times=1, reset=True, before=lambda _: victim.send(signal.SIGKILL)))
                victim.wait()
            case Aim.ANSWERED | Aim.REPLAY_ANSWERED:
                self._on_request(aim, Response(times=1, after=lambda _: victim.send(signal.SIGKILL)))
                victim.wait()
            case Aim.POLL_STUCK | Aim.SETTLEMENT_STUCK:
                victim.wait_ready()
                with stuck(self.database_url, *self.chance.choice(STUCK[aim])):
                    victim.kill()
            case Aim.POLL | Aim.LOGGED | Aim.SETTLEMENT | Aim.SETTLED | Aim.REPLAY_RECORD:
                victim.wait()
                assert victim.burnt, victim.output
        victim.kill()
        assert victim.status == -signal.SIGKILL, f"it died by itself, {aim}: {victim.log}\n{victim.output[-6000:]}"
        self.receiver.script()
        self.kills += 1
        self.evidence.update([INSIDE[aim]] if aim in INSIDE else [])
        del self.running[roles]

    def _on_request(self, aim: Aim, strike: Response) -> None:
        """Strike at the first request of a replay, or at a live one after a few others."""
        if aim in REPLAYS:
            strike.when = is_replay
            self.receiver.script(strike)
        else:
            strike.when = is_live
            self.receiver.script(Response(times=self.chance.randrange(6)), strike)

    def _look_after(self, victims: Sequence[str]) -> None:
        """See what the dead left behind, and have their claims lapse."""
        with self.engine.connect() as connection:
            if not connection.dialect.has_table(connection, "redeliveries"):
                return
            logged = set(connection.execute(text("SELECT public_id FROM events")).scalars())
            acked = {(name, room): sequence for name, room, sequence in connection.execute(ACKED)}
            replaying = connection.execute(REPLAYING, {"then": LONG_AGO}).scalar_one()
        if "sender" in victims:
            live = [one for one in self.receiver.deliveries[self._arrived :] if is_live(one)]
            unrecorded = [one for one in live if one.accepted and sequence_of(one) > acked[addressee(one), one.room]]
            self._found(Evidence.UNSENT, logged - self._logged - {one.event_id for one in live})
            self._found(Evidence.UNRECORDED, unrecorded)
            self._found(Evidence.REPLAYING, replaying)
            self._logged, self._arrived = logged, len(self.receiver.deliveries)
            lines = Counter(
                (line, room) for line, room, _ in {(addressee(one), one.room, one.event_id) for one in unrecorded}
            )
            assert max(lines.values(), default=0) <= REPEATS, f"one crash will repeat more than that of a line: {lines}"
        for role in victims:
            for table, column in CLAIMS[role]:
                self._let_lapse(table, column)

    def _found(self, evidence: Evidence, what: object) -> None:
        self.evidence.update([evidence] if what else [])

    def _let_lapse(self, table: str, column: str) -> None:
        """Of one table at a time, and alone with it: the other process may be alive."""
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"LOCK TABLE {table} IN SLOTS_PER_ENDPOINT ROW EXCLUSIVE MODE"))
            connection.execute(
                text(f"UPDATE {table} SET {column} = :then WHERE claim_token IS NOT NULL"),  # noqa: S608 - our names
                {"then": LONG_AGO},
            )

    def problems(self, truth: Mapping[str, set[str]]) -> list[str]:
        """What is not yet, or not at all, as it must be in the end; cheap enough to be asked again and again."""
        stored = stored_events(self.database_url)
        told = replay(event for _, event in stored)
        return [
            *(f"{room}: {sorted(wrong)}" for room in ROOMS if (wrong := truth[room] ^ told.get(room, set()))),
            *(problem for name in ENDPOINTS for problem in self.differences(name, stored)),
            *(f"{event_id} was not sent to {name} again" for name, event_id in self.unanswered()),
        ]

    def differences(self, name: str, stored: Sequence[tuple[bytes, Event]]) -> list[str]:
        """How what an endpoint has accepted differs from what it wants of the log."""
        wanted = [(body, event) for body, event in stored if wants(name, event)]
        mine = [one for one in self.receiver.deliveries if addressee(one) == name]
        return [f"{name}: {problem}" for problem in difference_from_log(mine, wanted)]

    def unanswered(self) -> set[tuple[str, str]]:
        """Replays that were asked for and have not arrived since."""
        arrived: dict[tuple[str, str], int] = {}
        for one in self.receiver.accepted:
            if is_replay(one):
                arrived[addressee(one), one.event_id] = one.assign_sequences
        return {place for place, mark in self.asked.items() if arrived.get(place, 0) <= mark}


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
    asked = ENDPOINTS[name]
    return any(fnmatchcase(event["type"], glob) for glob in asked["events"]) and any(
        fnmatchcase(event["data"]["room_id"], glob) for glob in asked["rooms"]
    )


@contextmanager
def stuck(database_url: str, table: str, statement: str) -> Iterator[None]:
    """Hold a lock until a process waits for it, in a transaction, with this statement; then on to the block's end."""
    waiting = sql.SQL(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND backend_xid IS NOT NULL AND starts_with(query, {})"
    ).format(statement)
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as onlooker:
        holder.execute(sql.SQL("LOCK TABLE {} IN SLOTS_PER_ENDPOINT MODE").format(sql.Identifier(table)))
        wait_until(lambda: onlooker.execute(waiting).fetchone(), what=f"{statement} that waits for a lock")
        yield
        holder.rollback()


def shuffled(aims: Mapping[Aim, int], chance: Random) -> list[Aim]:
    drawn = list(Counter(aims).elements())
    chance.shuffle(drawn)
    return drawn


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as parent:
        yield parent


@pytest.fixture
def scene(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver, nursery: Nursery, seed: int
) -> Scene:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=ROOMS,
        endpoints=[receiver.endpoint(name, **wanted) for name, wanted in ENDPOINTS.items()],
        sources={"main": {"timeout": "2s"}},
        delivery={"timeout": "2s"},
    )
    return Scene(
        config=config,
        database_url=ready_url,
        engine=create_engine(ready_url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool),
        nursery=nursery,
        receiver=receiver,
        chance=Random(seed),  # noqa: S311 - instants want a seed, not secrecy
    )


def test_two_hundred_kills_in_every_phase_lose_nothing_and_invent_nothing(
    scene: Scene, simulator: SimulatorClient, seed: int
) -> None:
    on_sqlite = scene.database_url.startswith("sqlite")
    with BusyRooms(simulator, ROOMS, seed=seed, pause=0.06) as busy:
        live_for_a_start(scene)
        for aim in shuffled(ONE_PROCESS if on_sqlite else ONE_PROCESS_ON_POSTGRESQL, scene.chance):
            scene.strike(aim)
        for aim in [] if on_sqlite else shuffled(TWO_PROCESSES, scene.chance):
            scene.strike_one_of_two(aim)
    for survivor in scene.running.values():
        survivor.kill()
    program = scene.nursery.fork("run", "--config", str(scene.config))
    wait_until(
        lambda: not scene.problems(busy.truth()),
        timeout=CATCHING_UP,
        what=lambda: str(scene.problems(busy.truth())[:20]),
    )
    program.send(signal.SIGTERM)
    assert program.wait() == 0, program.output
    check_log(scene, simulator)
    check_deliveries(scene)
    check_aim(scene)


def live_for_a_start(scene: Scene) -> None:
    """The first lives are short enough to die in a migration; then one lives until there is something to replay."""
    for _ in range(4):
        scene.strike(Aim.START)
    first = scene.nursery.fork("run", "--config", str(scene.config))
    scene.receiver.wait_for_count(20)
    first.send(signal.SIGTERM)
    assert first.wait() == 0, first.output


def check_log(scene: Scene, simulator: SimulatorClient) -> None:
    """Gapless, chained, and nobody came or went more often than they did."""
    log = [event for _, event in stored_events(scene.database_url)]
    assert log_problems(log) == []
    with scene.engine.connect() as connection:
        assert chain_problems(connection.execute(CHAIN).all()) == []
    for what, kind in (("join", "peer.joined"), ("leave", "peer.left")):
        said = Counter((event["data"]["room_id"], event["data"]["peer_id"]) for event in log if event["type"] == kind)
        true = Counter(
            (room, entry["peerId"])
            for room in ROOMS
            for entry in simulator.room(room)["history"]
            if entry["what"] == what
        )
        assert said - true == Counter(), f"{kind} without its cause"


def chain_problems(rows: Sequence[Any]) -> list[str]:
    """Where a room's numbers have a gap or its hashes do not follow from the bodies, its own row included."""
    heads: dict[int, tuple[int, bytes]] = defaultdict(lambda: (0, bytes(32)))
    ends: dict[int, tuple[int, bytes]] = {}
    problems = []
    for room, sequence, body, stored, last_sequence, chain_head in rows:
        assign_sequences, head = heads[room]
        heads[room] = (assign_sequences + 1, hashlib.sha256(head + bytes(body)).digest())
        ends[room] = (last_sequence, bytes(chain_head))
        if (sequence, bytes(stored)) != heads[room]:
            problems.append(f"room {room}, event {sequence}")
    return problems + [f"room {room} ends elsewhere" for room, end in ends.items() if end != heads[room]]


def check_deliveries(scene: Scene) -> None:
    """Everything that is wanted and nothing else, with the same bytes, first in the order of the log."""
    stored = stored_events(scene.database_url)
    bodies = {event["id"]: body for body, event in stored}
    deliveries = scene.receiver.deliveries
    assert [one.assign_sequences for one in deliveries if one.unverified or one.body != bodies.get(one.event_id)] == []
    assert delivery_problems([one for one in deliveries if addressee(one) == "everything"]) == []
    first: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for one in deliveries:
        line = first[addressee(one), one.room]
        if sequence_of(one) not in line:
            line.append(sequence_of(one))
    assert [place for place, line in first.items() if line != sorted(line)] == []
    assert [name for name in ENDPOINTS if scene.differences(name, stored)] == []
    assert scene.unanswered() == set()


def check_aim(scene: Scene) -> None:
    """Every phase was hit, as what was left behind shows."""
    seen: set[tuple[str, str]] = set()
    for one in scene.receiver.accepted:
        scene.evidence[Evidence.REPEATED] += is_live(one) and (addressee(one), one.event_id) in seen
        seen.add((addressee(one), one.event_id))
    print(scene.kills, "kills;", {str(kind): count for kind, count in scene.evidence.items()})  # noqa: T201
    assert scene.kills == KILLS
    assert {kind: scene.evidence[kind] for kind in Evidence if scene.evidence[kind] < LEAST[kind]} == {}
