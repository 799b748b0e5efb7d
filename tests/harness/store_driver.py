"""A migrated database and calls on it: rooms, polls, claims and records in a line each. Seconds count from START."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Table, select

from bridge.db.cursors import Offer
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.liveness import free_claims, read_claims
from bridge.db.migrate import migrate
from bridge.db.tables import attempts, cursors, dead_letters, events, rooms
from bridge.delivery.claim import Claim, ClaimedCursor, claim_cursors
from bridge.delivery.endpoints import EndpointSpec, add_endpoint, find_endpoint
from bridge.delivery.plan import Attempt, Moved, Recorded, Report
from bridge.delivery.record import record_attempts
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.snapshots import append_snapshots
from bridge.delivery.targets import TargetCache
from bridge.polling.claim import claim_rooms, release_rooms
from bridge.polling.plan import ClaimedRoom, Poll, PollingSettings, RecordedPoll, Skipped
from bridge.polling.record import record_polls
from bridge.polling.rooms import RoomSpec, add_room
from bridge.rules.chain import GENESIS, commit, link
from bridge.rules.delivery import Cause, DeliveryPolicy, Outcome, PostResult
from bridge.rules.presence import Failure, FailureKind, Snapshot
from tests.harness import postgres
from tests.harness.builders import at, peer, seen

P = ParamSpec("P")
T = TypeVar("T")

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD = PostResult(outcome=Outcome.DELIVERED, duration=timedelta(milliseconds=5), status=200)
RETRYABLE = PostResult(
    outcome=Outcome.RETRYABLE, duration=timedelta(milliseconds=5), status=500, cause=Cause.STATUS, detail="status 500"
)
REJECTED = PostResult(outcome=Outcome.REJECTED, duration=timedelta(milliseconds=5), status=400, cause=Cause.STATUS)
GONE = PostResult(outcome=Outcome.GONE, duration=timedelta(milliseconds=5), status=410, cause=Cause.STATUS)


def busy(seconds: float) -> PostResult:
    """429 with `Retry-After`."""
    return PostResult(
        outcome=Outcome.RETRYABLE,
        duration=timedelta(0),
        status=429,
        cause=Cause.STATUS,
        retry_after=timedelta(seconds=seconds),
    )


def failed(kind: FailureKind = FailureKind.SERVER_ERROR, retry_after: float | None = None) -> Failure:
    asked = None if retry_after is None else timedelta(seconds=retry_after)
    return Failure(kind=kind, detail=f"it was {kind.value}", retry_after=asked)


def migrated_sqlite(directory: Path) -> Path:
    """Make a file with the newest schema, to copy from."""
    file = directory / "template.db"
    database = Database(f"sqlite:///{file}")
    database.write_now(migrate)
    database.close()
    return file


def copied_sqlite(template: Path, directory: Path) -> str:
    shutil.copy(template, directory / "bridge.db")
    return f"sqlite:///{directory / 'bridge.db'}"


def migrated_postgresql(server: str) -> str:
    """Make a PostgreSQL database with the newest schema, to copy from, and return its name."""
    url = postgres.create_database(server)
    database = Database(url)
    database.write_now(migrate)
    database.close()
    return url.rpartition("/")[2]


@dataclass(slots=True, kw_only=True)
class StoreDriver:
    """One database; a method for each call on it."""

    database: Database
    settings: PollingSettings = field(default_factory=PollingSettings)
    policy: DeliveryPolicy = field(default_factory=DeliveryPolicy)
    cipher: SecretCipher = field(default_factory=SecretCipher)
    _numbers: Any = field(default_factory=lambda: count(1))

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers):06}"

    def token(self) -> str:
        return f"token-{next(self._numbers)}"

    def write(self, function: Callable[..., T], *args: object, **kwargs: object) -> T:
        return self.database.write_now(function, *args, **kwargs)

    def context(self, seconds: float = 0) -> EndpointContext:
        return EndpointContext(now=at(seconds), new_id=self.new_id, new_secret=lambda _: SECRET, cipher=self.cipher)

    # rooms and polls

    def track(self, *upstream_ids: str, source: str = "main", seconds: float = 0, **spec: Any) -> None:  # noqa: ANN401 - fields of RoomSpec
        added = [RoomSpec(source=source, upstream_id=upstream_id, **spec) for upstream_id in upstream_ids]
        self.write(lambda connection: [add_room(connection, room, at(seconds), self.new_id) for room in added])

    def claim(
        self,
        seconds: float,
        *,
        limit: int = 1000,
        rate: float = 0,
        source: str = "main",
        token: str | None = None,
    ) -> list[ClaimedRoom]:
        return self.write(
            claim_rooms,
            source,
            requests_per_second=rate,
            limit=limit,
            now=at(seconds),
            token=token or self.token(),
        )

    def record(
        self,
        claimed: Sequence[ClaimedRoom],
        result: Callable[[str], Snapshot | Failure | Skipped],
        seconds: float,
        offer: Offer | None = None,
    ) -> list[RecordedPoll]:
        polled = [polled_room(room, result(room.upstream_id), seconds) for room in claimed]
        if not polled:
            return []
        return self.write(record_polls, polled, settings=self.settings, new_id=self.new_id, offer=offer)

    def poll(
        self, seconds: float, offer: Offer | None = None, /, **responses: Snapshot | Failure
    ) -> dict[str, RecordedPoll]:
        """Claim the named rooms (they must be due) and record these responses, in one batch."""
        due = self.claim(seconds)
        claimed = [room for room in due if room.upstream_id in responses]
        assert {room.upstream_id for room in claimed} == set(responses), "not due"
        self.write(release_rooms, [room for room in due if room.upstream_id not in responses])
        recorded = self.record(claimed, responses.__getitem__, seconds, offer)
        return {room.upstream_id: one for room, one in zip(claimed, recorded, strict=True)}

    def record_joins(self, seconds: float, *rooms: str, people: int = 2) -> None:
        """Track the rooms, and record `room.occupied` and `people` joins in each."""
        self.track(*rooms, seconds=seconds)
        self.poll(seconds, **dict.fromkeys(rooms, seen(*(peer(f"p{number}", seconds) for number in range(people)))))

    def reject_all(self, result: Callable[[ClaimedCursor, str], PostResult] = lambda *_: REJECTED) -> None:
        """Deliver until what is rejected has become a dead letter."""
        for seconds in (1, 6, 306):
            self.deliver(seconds, result)

    def lose_claims(self) -> None:
        """Free all claims, as if every process had died."""
        for table, token in self.database.read_now(read_claims):
            self.write(free_claims, table, [token])

    # endpoints and deliveries

    def subscribe(self, name: str = "crm", seconds: float = 0, **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
        fields = {"url": f"https://{name}.example.com/", "secret": SECRET, "events": ("*",)} | spec
        self.write(add_endpoint, EndpointSpec(name=name, **fields), self.context(seconds))
        self.append_snapshots(seconds)
        key: int = self.database.read_now(find_endpoint, name).id
        return key

    def append_snapshots(self, seconds: float) -> None:
        while self.write(append_snapshots, at(seconds), self.new_id):
            pass

    def owed(self, seconds: float, *, slots: int = 1000, token: str | None = None) -> list[ClaimedCursor]:
        return list(self.write(claim_cursors, self.terms(seconds, slots=slots, token=token)).items)

    def terms(
        self, seconds: float, *, slots: int = 1000, token: str | None = None, targets: TargetCache | None = None
    ) -> Claim:
        targets = targets or TargetCache(self.cipher)
        return Claim(slots=slots, now=at(seconds), token=token or self.token(), targets=targets)

    def report(self, seconds: float, *reports: Report) -> list[Recorded]:
        assert {one.at for one in reports} <= {at(seconds)}
        return self.write(record_attempts, reports, policy=self.policy, new_id=self.new_id)

    def deliver(
        self, seconds: float, result: Callable[[ClaimedCursor, str], PostResult] = lambda *_: GOOD
    ) -> list[str]:
        """Deliver what is due now, cursor by cursor; returns the ids of the events sent, in order."""
        sent = []
        while claimed := self.owed(seconds):
            for cursor in claimed:
                sent += self.deliver_cursor(cursor, seconds, result)
        return sent

    def deliver_cursor(
        self, cursor: ClaimedCursor, seconds: float, result: Callable[[ClaimedCursor, str], PostResult]
    ) -> list[str]:
        if not cursor.events:
            self.report(seconds, nothing_wanted(cursor, seconds))
            return []
        sent, acked = [], cursor.acked
        for index, event in enumerate(cursor.events):
            sent.append(event.public_id)
            more = index + 1 < len(cursor.events)
            one = attempted(cursor, seconds, result(cursor, event.type), index=index, acked=acked, wants_next=more)
            (recorded,) = self.report(seconds, one)
            if not (isinstance(recorded, Moved) and recorded.keeps_claim):
                break
            acked = event.acks_to
        return sent

    # reading

    def rows(self, table: Table, *order: str) -> list[Any]:
        def read(connection: Connection) -> list[Any]:
            return list(connection.execute(select(table).order_by(*(table.c[name] for name in order))))

        return self.database.read_now(read)

    def room(self, upstream_id: str | None) -> Any:  # noqa: ANN401 - a row
        return next(row for row in self.rooms() if row.upstream_id == upstream_id)

    def rooms(self) -> list[Any]:
        return self.rows(rooms, "id")

    def cursor(self, endpoint: int, upstream_id: str | None) -> Any:  # noqa: ANN401 - a row
        key = self.room(upstream_id).id
        return next(
            (row for row in self.rows(cursors, "room_key") if (row.endpoint_key, row.room_key) == (endpoint, key)), None
        )

    def log(self, upstream_id: str | None) -> list[dict[str, Any]]:
        key = self.room(upstream_id).id
        return [json.loads(row.body) for row in self.rows(events, "room_key", "sequence") if row.room_key == key]

    def event_types(self, upstream_id: str | None) -> list[str]:
        return [event["type"] for event in self.log(upstream_id)]

    def attempts(self) -> list[Any]:
        return self.rows(attempts, "id")

    def dead_letters(self) -> list[Any]:
        return self.rows(dead_letters, "id")

    def chain_problems(self) -> list[str]:
        """Return the faults in the numbers and the hashes of every room's log."""
        problems = []
        found = self.rows(events, "room_key", "sequence")
        for room in self.rooms():
            head, last = GENESIS, 0
            for row in (row for row in found if row.room_key == room.id):
                last += 1
                head = link(head, last, commit(bytes(row.salt), bytes(row.body)))
                body = json.loads(row.body)
                if (row.sequence, body["data"]["sequence"]) != (last, last):
                    problems.append(f"{room.upstream_id}: sequence {row.sequence} in place of {last}")
                if (body["id"], body["type"]) != (row.public_id, row.type):
                    problems.append(f"{room.upstream_id}: row and body of {row.public_id} differ")
                if bytes(row.hash) != head:
                    problems.append(f"{room.upstream_id}: the chain breaks at {last}")
            if (room.last_sequence, bytes(room.chain_head)) != (last, head):
                problems.append(f"{room.upstream_id}: last_sequence is {room.last_sequence}, the log ends at {last}")
        return problems


def polled_room(room: ClaimedRoom, result: Snapshot | Failure | Skipped, seconds: float) -> Poll:
    return Poll(room=room, started_at=at(seconds), at=at(seconds), result=result, jitter=0.5)


def attempted(
    cursor: ClaimedCursor,
    seconds: float,
    result: PostResult = GOOD,
    *,
    index: int = 0,
    acked: int | None = None,
    wants_next: bool = False,
) -> Report:
    """An attempt at one of a claimed cursor's events."""
    return Report(
        cursor=cursor,
        acked=cursor.acked if acked is None else acked,
        attempt=Attempt(event=cursor.events[index], result=result, started_at=at(seconds)),
        wants_next=wants_next,
        at=at(seconds),
        jitter=0.5,
    )


def nothing_wanted(cursor: ClaimedCursor, seconds: float) -> Report:
    """The endpoint wants nothing up to the cursor's reach."""
    return Report(
        cursor=cursor,
        acked=cursor.acked,
        attempt=None,
        wants_next=False,
        at=at(seconds),
        jitter=0.5,
    )


def by_room(claimed: Sequence[ClaimedCursor]) -> Mapping[str | None, ClaimedCursor]:
    return {cursor.room_id: cursor for cursor in claimed}
