"""Presence of a room and its changes: every rule about them is in this file, and nothing else.

Pure: `now`, ids and policy are arguments. docs/events.md has the rules as a receiver sees them: only a valid response
changes presence; an incomplete one may add and never removes; a peer has left when `leave_after_missed` complete
snapshots in a row missed it, and its leave is dated at the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from bridge.rules.identity import IdentityPolicy, find_display_name, find_person_key, keep_metadata

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


class Absent:
    """The type of ABSENT: the upstream sent no value, not even null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One participant of a snapshot; `join_time` is what the upstream reported, plausible or not.

    `person_key` and `display_name` are what the source itself calls the person and the peer; they count where the paths
    of `[identity]` find nothing in `documents`, by default the metadata. `has_id_per_visit`: every return has a new id,
    so another `join_time` under the same id is not a return.
    """

    peer_id: str
    join_time: datetime | None = None
    metadata: Json | Absent = ABSENT
    person_key: str | None = None
    display_name: str | None = None
    documents: tuple[Json, ...] = ()
    has_id_per_visit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A valid response. A complete one may remove peers; with `no_session` the upstream knows of no session.

    `notes` are oddities for the log. Equal `fingerprint`s mean equal peers, so that a poll without changes is cheap.
    """

    peers: tuple[Peer, ...]
    complete: bool = True
    no_session: bool = False
    notes: tuple[str, ...] = ()
    fingerprint: bytes | None = None


class FailureKind(StrEnum):
    """Why a poll failed."""

    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    BAD_RESPONSE = "bad_response"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A poll that changes nothing. `retry_after` is what the upstream asked for, uncapped."""

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after: timedelta | None = None


class FirstSnapshot(StrEnum):
    """Whether peers that are present when tracking starts are delivered as events, or only logged."""

    EMIT = "emit"
    BASELINE = "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class PresencePolicy:
    """Policy for comparing snapshots (`[polling]`, `[identity]`)."""

    leave_after_missed: int = 1
    first_snapshot: FirstSnapshot = FirstSnapshot.EMIT
    identity: IdentityPolicy = field(default_factory=IdentityPolicy)


class TimeSource(StrEnum):
    """Origin of a time: the upstream's own record, or our polls."""

    UPSTREAM = "upstream"
    OBSERVED = "observed"


class LeaveReason(StrEnum):
    """Why a visit ended."""

    ABSENT = "absent"
    SESSION_ENDED = "session_ended"
    REJOINED = "rejoined"
    UNWATCHED = "unwatched"


class EmptyReason(StrEnum):
    """Why a session ended."""

    ABSENT = "absent"
    NO_SESSION = "no_session"


FUTURE_TOLERANCE = timedelta(minutes=5)
"""A `joinTime` further ahead than this is ignored."""
SAME_JOIN_TIME = timedelta(seconds=1)
"""Two `joinTime`s closer than this are the same one: the upstream's servers have clocks of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A continuous presence of a peer that has not ended.

    `join_time` is the plausible `joinTime` it began with; `reported_join_time` is the latest one, plausible or not.
    `initial`: it was under way when tracking started. `joined_after` is the last complete snapshot before it; None if
    tracking began with it.
    """

    visit_id: str
    peer_id: str
    person_key: str
    display_name: str
    joined_at: datetime
    joined_at_source: TimeSource
    joined_after: datetime | None = None
    join_time: datetime | None
    reported_join_time: datetime | None = None
    last_seen_at: datetime
    metadata: Json
    initial: bool
    missed: int = 0
    missing_since: datetime | None = None
    missing_reason: LeaveReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An occupied period of a room that has not ended."""

    session_id: str
    started_at: datetime
    visit_count: int
    unique_peers: int
    peak_peer_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Stored presence of a room.

    `tracked_since` is None if the room is not tracked, `complete_at` (the last complete snapshot) until there is one.
    `departed` are peers whose visits of the current session have ended: their return is no new unique peer.
    """

    visits: Mapping[str, Visit] = field(default_factory=dict)
    session: Session | None = None
    tracked_since: datetime | None = None
    complete_at: datetime | None = None
    departed: frozenset[str] = frozenset()

    @property
    def has_suspects(self) -> bool:
        """Whether a leave waits to be confirmed."""
        return any(visit.missed for visit in self.visits.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomOccupied:
    """A session began; `peer_count` is the number of peers in the snapshot."""

    session: Session
    peer_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLeft:
    """A visit ended, somewhere between `visit.last_seen_at` and `left_at`."""

    visit: Visit
    session_id: str
    left_at: datetime
    left_at_source: TimeSource
    reason: LeaveReason
    peer_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJoined:
    """A visit began."""

    visit: Visit
    session_id: str
    peer_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerUpdated:
    """The metadata of a visit changed."""

    visit: Visit
    session_id: str
    previous_metadata: Json
    peer_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEmptied:
    """A session ended, somewhere between `last_seen_at` and `ended_at`."""

    session: Session
    ended_at: datetime
    last_seen_at: datetime
    reason: EmptyReason


Change = RoomOccupied | PeerLeft | PeerJoined | PeerUpdated | RoomEmptied


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceDiff:
    """Effect of a snapshot on a room.

    `changes` are in the order of their events; `arrived`, `left` and `emptied` are the same facts by kind.
    """

    after: Presence
    changes: tuple[Change, ...] = ()
    arrived: tuple[Visit, ...] = ()
    left: tuple[PeerLeft, ...] = ()
    emptied: RoomEmptied | None = None


def diff(
    before: Presence, snapshot: Snapshot, policy: PresencePolicy, now: datetime, new_id: Callable[[str], str]
) -> PresenceDiff:
    """Compare stored presence with a snapshot taken at `now`; `new_id("vis")` and `new_id("ses")` make ids."""
    seen = {peer.peer_id: _identified(peer, policy.identity) for peer in snapshot.peers}
    stayed, departures = _match_visits(before, seen, snapshot, policy, now)
    arrived = _arrivals(before, stayed, seen, now, new_id)
    after_visits = {visit.peer_id: visit for visit in (*stayed, *arrived)}
    session = _session_after(before, arrived, len(after_visits), new_id)
    complete_at = now if snapshot.complete else before.complete_at
    if session is None:
        return PresenceDiff(after=replace(before, complete_at=complete_at))
    left = _leaves(before, session, departures)
    emptied = None if after_visits else _emptied(session, departures, no_session=snapshot.no_session)
    changes = _in_order(before, session, stayed=stayed, left=left, arrived=arrived, emptied=emptied)
    return PresenceDiff(
        after=replace(
            before,
            visits=after_visits,
            session=session if emptied is None else None,
            complete_at=complete_at,
            departed=before.departed | {change.visit.peer_id for change in left} if emptied is None else frozenset(),
        ),
        changes=changes,
        arrived=arrived,
        left=left,
        emptied=emptied,
    )


def is_announced(change: Change, diff: PresenceDiff, policy: PresencePolicy) -> bool:
    """Whether a change is delivered; under `baseline`, peers present at the start are in the log, but not delivered."""
    if policy.first_snapshot is FirstSnapshot.EMIT:
        return True
    match change:
        case PeerJoined(visit=visit):
            return not visit.initial
        case RoomOccupied():
            return not any(visit.initial for visit in diff.arrived)
        case PeerLeft() | PeerUpdated() | RoomEmptied():
            return True


def end_tracking(before: Presence, now: datetime) -> PresenceDiff:
    """End every visit and the session of a room that is no longer polled."""
    session = before.session
    if session is None:
        return PresenceDiff(after=Presence())
    departures = [
        _Departure(
            visit=visit,
            left_at=visit.missing_since or now,
            reason=LeaveReason.UNWATCHED,
            source=TimeSource.OBSERVED,
        )
        for visit in before.visits.values()
    ]
    left = _leaves(before, session, departures)
    emptied = _emptied(session, departures, no_session=False)
    return PresenceDiff(after=Presence(), changes=(*left, emptied), left=left, emptied=emptied)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Departure:
    visit: Visit
    left_at: datetime
    reason: LeaveReason
    source: TimeSource


def _match_visits(
    before: Presence, seen: Mapping[str, Peer], snapshot: Snapshot, policy: PresencePolicy, now: datetime
) -> tuple[tuple[Visit, ...], list[_Departure]]:
    """Divide the open visits into those that stay (seen, or not yet missed often enough), and those that left."""
    stayed: list[Visit] = []
    left: list[_Departure] = []
    for visit in before.visits.values():
        peer = seen.get(visit.peer_id)
        if peer is not None:
            rejoined_at = _rejoined_at(visit, peer, now)
            if rejoined_at is None:
                stayed.append(_seen_again(visit, peer, now))
            else:
                left.append(_replaced(visit, rejoined_at, now))
        elif not snapshot.complete:
            stayed.append(visit)
        else:
            missed = _missed_once_more(visit, now, no_session=snapshot.no_session)
            if missed.missed < policy.leave_after_missed:
                stayed.append(missed)
            else:
                left.append(_absent(missed, now))
    return tuple(stayed), left


def _plausible(join_time: datetime | None, now: datetime) -> datetime | None:
    """The `joinTime`, unless it lies too far in the future."""
    return join_time if join_time is not None and join_time <= now + FUTURE_TOLERANCE else None


def _rejoined_at(visit: Visit, peer: Peer, now: datetime) -> datetime | None:
    """Time at which the peer came back under the same id, if a newer `joinTime` shows that it had left in between.

    A visit that began without a plausible `joinTime` may get one later: it is a return only if it lies after the peer
    was last seen, and was not reported before.
    """
    join_time = None if peer.has_id_per_visit else _plausible(peer.join_time, now)
    if join_time is None or _is_same(join_time, visit.reported_join_time) or _is_same(join_time, visit.join_time):
        return None
    known = visit.join_time if visit.join_time is not None else visit.last_seen_at
    return join_time if join_time > known else None


def _is_same(join_time: datetime, known: datetime | None) -> bool:
    return known is not None and abs(join_time - known) < SAME_JOIN_TIME


def _seen_again(visit: Visit, peer: Peer, now: datetime) -> Visit:
    return replace(
        visit,
        last_seen_at=now,
        join_time=visit.join_time or _plausible(peer.join_time, now),
        reported_join_time=peer.join_time or visit.reported_join_time,
        metadata=visit.metadata if isinstance(peer.metadata, Absent) else peer.metadata,
        display_name=visit.display_name if isinstance(peer.metadata, Absent) else _name(peer),
        missed=0,
        missing_since=None,
        missing_reason=None,
    )


def _missed_once_more(visit: Visit, now: datetime, *, no_session: bool) -> Visit:
    reason = LeaveReason.SESSION_ENDED if no_session else LeaveReason.ABSENT
    return replace(
        visit,
        missed=visit.missed + 1,
        missing_since=visit.missing_since or now,
        missing_reason=reason if visit.missing_reason is not LeaveReason.SESSION_ENDED else visit.missing_reason,
    )


def _absent(visit: Visit, now: datetime) -> _Departure:
    return _Departure(
        visit=visit,
        left_at=max(visit.missing_since or now, visit.last_seen_at),
        reason=visit.missing_reason or LeaveReason.ABSENT,
        source=TimeSource.OBSERVED,
    )


def _replaced(visit: Visit, rejoined_at: datetime, now: datetime) -> _Departure:
    """The old visit ended after it was last seen and before the new one began, or before a poll missed it."""
    if visit.missing_since is not None:
        left_at, source = visit.missing_since, TimeSource.OBSERVED
    else:
        left_at, source = min(max(rejoined_at, visit.last_seen_at), now), TimeSource.UPSTREAM
    return _Departure(visit=visit, left_at=left_at, reason=LeaveReason.REJOINED, source=source)


def _arrivals(
    before: Presence, stayed: Iterable[Visit], seen: Mapping[str, Peer], now: datetime, new_id: Callable[[str], str]
) -> tuple[Visit, ...]:
    staying = {visit.peer_id for visit in stayed}
    visits = [
        _arrive(before, peer, now, visit_id=new_id("vis")) for peer in seen.values() if peer.peer_id not in staying
    ]
    return tuple(sorted(visits, key=lambda visit: (visit.joined_at, visit.peer_id)))


def _arrive(before: Presence, peer: Peer, now: datetime, *, visit_id: str) -> Visit:
    join_time = _plausible(peer.join_time, now)
    return Visit(
        visit_id=visit_id,
        peer_id=peer.peer_id,
        person_key=peer.person_key or peer.peer_id,
        display_name=_name(peer),
        joined_at=join_time or now,
        joined_at_source=TimeSource.OBSERVED if join_time is None else TimeSource.UPSTREAM,
        joined_after=before.complete_at,
        join_time=join_time,
        reported_join_time=peer.join_time,
        last_seen_at=now,
        metadata=None if isinstance(peer.metadata, Absent) else peer.metadata,
        initial=_is_initial(before, join_time),
    )


def _is_initial(before: Presence, join_time: datetime | None) -> bool:
    """Whether a visit was under way when tracking started, which needs a room without a complete snapshot.

    The `joinTime` decides. Without one, peers of the first snapshot count as present before.
    """
    if before.complete_at is not None:
        return False
    if join_time is None or before.tracked_since is None:
        return before.session is None
    return join_time <= before.tracked_since


def _identified(peer: Peer, policy: IdentityPolicy) -> Peer:
    """The peer with its person, its name and the metadata that is kept."""
    documents = peer.documents or (() if isinstance(peer.metadata, Absent) else (peer.metadata,))
    person_key, name = find_person_key(documents, policy), find_display_name(documents, policy)
    return replace(
        peer,
        person_key=peer.person_key if person_key is None else person_key,
        display_name=peer.display_name if name is None else name,
        metadata=peer.metadata if isinstance(peer.metadata, Absent) else keep_metadata(peer.metadata, policy),
    )


def _name(peer: Peer) -> str:
    return peer.peer_id if peer.display_name is None else peer.display_name


def _is_updated(visit: Visit, before: Visit) -> bool:
    """Whether the metadata or the name is another one: the log always has both."""
    return visit.display_name != before.display_name or not same_json(visit.metadata, before.metadata)


def _session_after(
    before: Presence, arrived: tuple[Visit, ...], peer_count: int, new_id: Callable[[str], str]
) -> Session | None:
    """The session with this poll's arrivals counted, before it is known whether the room is empty."""
    session = before.session
    if session is None:
        if not arrived:
            return None
        session = Session(
            session_id=new_id("ses"),
            started_at=arrived[0].joined_at,
            visit_count=0,
            unique_peers=0,
            peak_peer_count=0,
        )
    known = before.departed | before.visits.keys()
    return replace(
        session,
        visit_count=session.visit_count + len(arrived),
        unique_peers=session.unique_peers + sum(visit.peer_id not in known for visit in arrived),
        peak_peer_count=max(session.peak_peer_count, peer_count),
    )


def _leaves(before: Presence, session: Session, departures: Iterable[_Departure]) -> tuple[PeerLeft, ...]:
    """The leaves by time, then peer id, each with the number of peers after it."""
    in_order = sorted(departures, key=lambda departure: (departure.left_at, departure.visit.peer_id))
    return tuple(
        _left(departure, session.session_id, len(before.visits) - gone) for gone, departure in enumerate(in_order, 1)
    )


def _in_order(
    before: Presence,
    session: Session,
    *,
    stayed: tuple[Visit, ...],
    left: tuple[PeerLeft, ...],
    arrived: tuple[Visit, ...],
    emptied: RoomEmptied | None,
) -> tuple[Change, ...]:
    """Changes of one poll: occupied, every leave, every join, updates, empty (docs/events.md, "Order")."""
    final_count = len(stayed) + len(arrived)
    remaining = len(before.visits) - len(left)
    occupied = [RoomOccupied(session=session, peer_count=final_count)] if before.session is None else []
    joined = [
        PeerJoined(visit=visit, session_id=session.session_id, peer_count=remaining + came)
        for came, visit in enumerate(arrived, 1)
    ]
    updated = [
        PeerUpdated(
            visit=visit,
            session_id=session.session_id,
            previous_metadata=before.visits[visit.peer_id].metadata,
            peer_count=final_count,
        )
        for visit in stayed
        if _is_updated(visit, before.visits[visit.peer_id])
    ]
    return (*occupied, *left, *joined, *updated, *([] if emptied is None else [emptied]))


def _left(departure: _Departure, session_id: str, peer_count: int) -> PeerLeft:
    return PeerLeft(
        visit=departure.visit,
        session_id=session_id,
        left_at=departure.left_at,
        left_at_source=departure.source,
        reason=departure.reason,
        peer_count=peer_count,
    )


def _emptied(session: Session, left: list[_Departure], *, no_session: bool) -> RoomEmptied:
    ended = any(departure.reason is LeaveReason.SESSION_ENDED for departure in left)
    return RoomEmptied(
        session=session,
        ended_at=max(departure.left_at for departure in left),
        last_seen_at=max(departure.visit.last_seen_at for departure in left),
        reason=EmptyReason.NO_SESSION if ended or no_session else EmptyReason.ABSENT,
    )


def same_json(one: Json, other: Json) -> bool:
    """Equality of JSON values: unlike in Python, `true` is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
