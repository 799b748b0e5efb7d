"""Pokes at an interval of 2 minutes, against polling every 2 seconds: delays, and polls for each change."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.livekit import rig
from benchmarks.livekit.meeting import Meeting, Pace
from tests.harness.deliveries import wait_until_delivered
from tests.harness.receiver import Receiver
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(10)]
LIVE = ROOMS[:3]
PACE = Pace(stay=(3, 6), away=(1, 4))


def measure(seconds: float) -> Iterator[str]:
    """The same comings and goings under both."""
    yield f"{len(ROOMS)} tracked rooms, {len(LIVE)} with two people who come and go for {seconds:.0f} s."
    yield ""
    head = (
        "",
        "join to webhook: p50 / p99 / most",
        "leave to webhook: p50 / p99 / most",
        "joins and leaves",
        "polls",
        "polls for each",
    )
    rows = (
        ("polling every 2 s", *_run(seconds, interval="2s", poked=False)),
        ("pokes, polling every 2 m", *_run(seconds, interval="2m", poked=True)),
    )
    yield from rig.table(head, rows)


def _run(seconds: float, *, interval: str, poked: bool) -> tuple[object, ...]:
    meeting = Meeting()
    with Receiver() as receiver:
        with rig.running_at_livekit([(receiver, {})], rooms=ROOMS, interval=interval, poked=poked) as (
            server,
            [bridge],
        ):
            wait_until(lambda: bridge.metric("bridge_polls_total") >= len(ROOMS), what="the first polls")
            before = bridge.metric("bridge_polls_total")
            with meeting.running(server, [(room, [f"{room}-a", f"{room}-b"]) for room in LIVE], PACE):
                time.sleep(seconds)
            wait_until(
                lambda: len(receiver.events("peer.left")) >= len(meeting.visits),
                timeout=300,
                what=lambda: f"{len(receiver.events('peer.left'))} leaves of {len(meeting.visits)} visits",
            )
            polls = bridge.metric("bridge_polls_total") - before
            wait_until_delivered(receiver, bridge.database_url)
        arrived = {one.event_id: rig.wall_time(one) for one in reversed(receiver.accepted)}
    events = receiver.events("peer.joined", "peer.left")
    joins = [
        arrived[event["id"]] - rig.unix_seconds(event["data"]["joined_at"])
        for event in events
        if event["type"] == "peer.joined"
    ]
    leaves = [
        arrived[event["id"]] - left_at
        for event in events
        if event["type"] == "peer.left" and (left_at := meeting.visits[event["data"]["peer_id"]].left_at) is not None
    ]
    return rig.spread(joins), rig.spread(leaves), len(events), int(polls), f"{polls / len(events):.1f}"
