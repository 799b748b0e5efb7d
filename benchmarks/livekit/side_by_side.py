"""LiveKit's own webhooks against the bridge's: one meeting of flapping participants, receivers that fail alike.

A fifth of all requests get a 503, and for some seconds every connection is cut. One more receiver, which never fails,
is LiveKit's own record: it has the times when LiveKit removed killed participants. There are two bridges: one with the
default `retry_schedule`, one that tries again as soon as LiveKit does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from threading import Event
from typing import Any

from benchmarks.livekit import rig
from benchmarks.livekit.meeting import Meeting, Pace, Visit
from tests.harness.deliveries import stored_events
from tests.harness.receiver import Receiver, Response

ROOMS = ("physics", "history", "latin", "music", "art", "sports")
GROUPS = [(room, [f"{room}-{number}" for number in range(3)]) for room in ROOMS]
PACE = Pace(stay=(0.3, 6), away=(0.1, 3), killed=0.2)
QUICK = ["1s", "2s", "4s", "8s", *["15s"] * 20]
"""As LiveKit's, which ends after the fourth."""
FAILING, OUTAGE_SECONDS, LATE_SECONDS = 0.2, 15.0, 10.0
DRAIN_SECONDS = 150.0
JOINED, LEFT = "joined", "left"


@dataclass(frozen=True, slots=True)
class Message:
    """An accepted join or leave: its position in the sender's own order, and when it came."""

    kind: str
    sid: str
    room: str
    order: int
    at: float


def measure(seconds: float) -> Iterator[str]:
    """Run the meeting for a while, then wait until no sender has anything left to send, or for some minutes."""
    meeting, outage = Meeting(), Event()
    with (
        Receiver() as ours,
        Receiver() as quick,
        Receiver() as theirs,
        Receiver() as record,
    ):
        for number, receiver in enumerate((ours, quick, theirs)):
            receiver.script(*_faults(outage, Random(number)))  # noqa: S311 - a seed, not secrecy
        receivers = [(ours, {}), (quick, {"retry_schedule": QUICK})]
        urls = (theirs.url, record.url)
        with rig.running_at_livekit(receivers, rooms=ROOMS, interval="2s", webhooks=urls) as (server, bridges):
            with meeting.running(server, GROUPS, PACE):
                time.sleep(seconds / 2)
                outage.set()
                time.sleep(OUTAGE_SECONDS)
                outage.clear()
                time.sleep(max(0.0, seconds / 2 - OUTAGE_SECONDS))
            rig.wait_for_quiet(record, 45)  # twice the time after which LiveKit removes a killed participant
            rig.wait_for_quiet(theirs, 45)
            limit = time.monotonic() + DRAIN_SECONDS
            while time.monotonic() < limit and any(bridge.metric("bridge_owed_events") for bridge in bridges):
                time.sleep(1)
            owed = [int(bridge.metric("bridge_owed_events")) for bridge in bridges]
            logs = [_bridge_messages(_logged(bridge)) for bridge in bridges]
    given_up = {message.sid: message.at for message in _livekit_messages(record) if message.kind == LEFT}
    killed = sum(visit.left_at is None for visit in meeting.visits.values())
    yield (
        f"{len(meeting.visits):,} visits in {len(ROOMS)} rooms within {seconds:.0f} s, {killed} of them ended"
        f" by a kill; {FAILING:.0%} of requests fail, and all for {OUTAGE_SECONDS:.0f} s. Counted"
        f" {(90 + DRAIN_SECONDS) / 60:.1f} minutes after the meeting at the latest."
    )
    yield ""
    messages = (
        _livekit_messages(record),
        _livekit_messages(theirs),
        *(_bridge_messages(_accepted(receiver)) for receiver in (ours, quick)),
    )
    sides = [
        _compare(some, known, meeting.visits, given_up)
        for some, known in zip(messages, (messages[0], messages[1], *logs), strict=True)
    ]
    head = (
        "",
        "LiveKit's to a receiver that never fails",
        "LiveKit's webhooks",
        "the bridge's",
        "the same, `retry_schedule` from 1 s",
    )
    yield from rig.table(head, ((name, *(side[name] for side in sides)) for name in sides[0]))
    yield ""
    for number, log in enumerate(logs):
        seen = {message.sid for message in log}
        unseen = [visit.ended_at - visit.joined_at for sid, visit in meeting.visits.items() if sid not in seen]
        longest = rig.duration(max(unseen, default=0))
        yield f"Bridge {number + 1}: {len(unseen)} visits that no poll saw, the longest of {longest}."
    yield f"Events that the bridges still owed: {owed[0]} and {owed[1]}. Connections not made: {meeting.failed}."


def _faults(outage: Event, rng: Random) -> tuple[Response, ...]:
    return (
        Response(reset=True, when=lambda _: outage.is_set()),
        Response(status=503, when=lambda _: rng.random() < FAILING),
    )


def _accepted(receiver: Receiver) -> Iterator[tuple[dict[str, Any], float]]:
    return ((one.event, rig.wall_time(one)) for one in receiver.accepted)


def _logged(bridge: rig.Bridge) -> Iterator[tuple[dict[str, Any], float]]:
    return ((event, math.inf) for _, event in stored_events(bridge.database_url))


def _bridge_messages(events: Iterable[tuple[dict[str, Any], float]]) -> list[Message]:
    kinds = {"peer.joined": JOINED, "peer.left": LEFT}
    return [
        Message(kinds[event["type"]], event["data"]["peer_id"], event["data"]["room_id"], event["data"]["sequence"], at)
        for event, at in events
        if event["type"] in kinds
    ]


def _livekit_messages(receiver: Receiver) -> list[Message]:
    kinds = {"participant_joined": JOINED, "participant_left": LEFT}
    return [
        Message(
            kinds[one.event["event"]],
            one.event["participant"]["sid"],
            one.event["room"]["name"],
            int(one.event["createdAt"]),
            rig.wall_time(one),
        )
        for one in receiver.accepted
        if one.event.get("event") in kinds
    ]


def _compare(
    messages: Sequence[Message], known: Sequence[Message], visits: Mapping[str, Visit], given_up: Mapping[str, float]
) -> dict[str, object]:
    """Count the accepted messages; `known` are those that were or will be accepted."""
    first = {(message.kind, message.sid): message for message in reversed(messages) if message.sid in visits}
    coming = {(message.kind, message.sid) for message in known}
    wanted = [(kind, sid) for sid in visits for kind in (JOINED, LEFT)]
    delays = {
        JOINED: [first[JOINED, sid].at - visit.joined_at for sid, visit in visits.items() if (JOINED, sid) in first],
        LEFT: [
            first[LEFT, sid].at - (given_up[sid] if visit.left_at is None else visit.left_at)
            for sid, visit in visits.items()
            if (LEFT, sid) in first
        ],
    }
    lost = {kind: sum(one[0] == kind and one not in coming for one in wanted) for kind in (JOINED, LEFT)}
    return {
        "joins lost": lost[JOINED],
        "leaves lost": lost[LEFT],
        "still to come": sum(one in coming and one not in first for one in wanted),
        f"late: more than {LATE_SECONDS:.0f} s": sum(
            delay > LATE_SECONDS for some in delays.values() for delay in some
        ),
        "join to webhook: p50 / p99 / most": rig.spread(delays[JOINED]),
        "leave to webhook: p50 / p99 / most": rig.spread(delays[LEFT]),
        "out of order in their room": _out_of_order(first.values()),
        "leaves before their join": sum(
            (JOINED, sid) in first and (LEFT, sid) in first and first[LEFT, sid].at < first[JOINED, sid].at
            for sid in visits
        ),
        "accepted twice": len([message for message in messages if message.sid in visits]) - len(first),
        "people still there for the receiver at the end": _still_there(first.values()),
    }


def _out_of_order(messages: Iterable[Message]) -> int:
    """The number of messages that came after a later one of their room, by the sender's own order."""
    latest: dict[str, int] = {}
    count = 0
    for message in sorted(messages, key=lambda message: message.at):
        count += message.order < latest.get(message.room, 0)
        latest[message.room] = max(message.order, latest.get(message.room, 0))
    return count


def _still_there(messages: Iterable[Message]) -> int:
    """The number of participants whose last message is a join."""
    last = {message.sid: message.kind for message in sorted(messages, key=lambda message: message.at)}
    return sum(kind == JOINED for kind in last.values())
