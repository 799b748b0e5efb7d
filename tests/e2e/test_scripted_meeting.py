"""A scripted meeting through the real program: exactly the events of docs/events.md, in order, signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.simulator import Simulation
from tests.harness.config import Configure
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.npm_verifier import npm_outcomes, with_flipped_byte
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Event, Receiver
from tests.harness.simulator import Simulator

ROOM = "abc-defg-hij"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

Brief = tuple[str, str | None, int, str | None]
"""Type, peer, peer_count, reason."""


@dataclass(frozen=True)
class Act:
    """A change between two polls, and all events that follow from it."""

    change: Callable[[Simulator], None]
    events: Sequence[Brief]


def _first_two_join(simulator: Simulator) -> None:
    """The first in the list joined last."""
    start = 1_700_000_000_000

    def change(simulation: Simulation) -> None:
        simulation.join(ROOM, peer_id="anna", joined_at=start, metadata={"displayName": "Anna A."})
        simulation.join(ROOM, peer_id="bert", joined_at=start - 5000, metadata={"name": "Bert"})

    simulator.at_once(change)


def _bert_returns_under_his_id(simulator: Simulator) -> None:
    simulator.join(ROOM, "bert", metadata={"name": "Bert"})  # a peer that joins again has left


def _emil_joins_without_time_and_metadata(simulator: Simulator) -> None:
    simulator.faults({"kind": "join_time_missing"}, {"kind": "metadata_absent"}, room=ROOM)
    simulator.join(ROOM, "emil")


ACTS = [
    Act(
        _first_two_join,
        [("room.occupied", None, 2, None), ("peer.joined", "bert", 1, None), ("peer.joined", "anna", 2, None)],
    ),
    Act(lambda simulator: simulator.join(ROOM, "cleo"), [("peer.joined", "cleo", 3, None)]),
    Act(
        lambda simulator: simulator.swap(ROOM, leave="anna", join="dora"),
        [("peer.left", "anna", 2, "absent"), ("peer.joined", "dora", 3, None)],
    ),
    Act(_bert_returns_under_his_id, [("peer.left", "bert", 2, "rejoined"), ("peer.joined", "bert", 3, None)]),
    Act(lambda simulator: simulator.set_metadata(ROOM, "cleo", {"hand": "up"}), [("peer.updated", "cleo", 3, None)]),
    Act(lambda simulator: simulator.leave(ROOM, "dora"), [("peer.left", "dora", 2, "absent")]),
    Act(
        lambda simulator: simulator.leave(ROOM, "bert", "cleo"),
        [("peer.left", "bert", 1, "absent"), ("peer.left", "cleo", 0, "absent"), ("room.empty", None, 0, "absent")],
    ),
    Act(lambda simulator: simulator.set_end_lag(0), []),  # 404 in place of an empty list changes nothing
    Act(
        _emil_joins_without_time_and_metadata,
        [("room.occupied", None, 1, None), ("peer.joined", "emil", 1, None)],
    ),
    Act(
        lambda simulator: simulator.end(ROOM),
        [("peer.left", "emil", 0, "session_ended"), ("room.empty", None, 0, "no_session")],
    ),
]


@pytest.fixture
def meeting(configure: Configure, simulator: Simulator, receiver: Receiver) -> Iterator[BridgeProcess]:
    """The bridge on an empty room in which a session does not end by itself."""
    simulator.set_end_lag(3600)
    config = configure(
        rooms=[{"id": ROOM, "name": "Weekly stand-up"}],
        endpoints=[receiver.endpoint("all"), {"name": "crm", "url": f"{receiver.url}/crm", "secret": receiver.secret}],
    )
    with BridgeProcess(config) as program:
        program.wait_ready()
        simulator.wait_for_polls(2, ROOM)
        yield program


def play(simulator: Simulator, receiver: Receiver) -> list[Event]:
    """Play it act by act; all events of one are delivered before the next one begins."""
    count = 0
    for act in ACTS:
        act.change(simulator)
        count += len(act.events)
        receiver.wait_for(lambda _: len(everything(receiver)) >= count, f"{act.events}")  # noqa: B023 - called at once
        simulator.wait_for_polls(3, ROOM)
    return everything(receiver)


def everything(receiver: Receiver) -> list[Event]:
    """Return the events at the endpoint that wants all types."""
    return [delivery.event for delivery in receiver.accepted if delivery.path == "/all"]


def brief(event: Event) -> Brief:
    facts = event["data"]
    return (
        event["type"],
        facts.get("peer_id"),
        facts["peer_count"],
        facts.get("leave_reason") or facts.get("empty_reason"),
    )


def test_a_scripted_meeting_gives_exactly_its_events_in_order(
    meeting: BridgeProcess, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    events = play(simulator, receiver)
    assert meeting.stop() == 0
    assert [brief(event) for event in events] == [event for act in ACTS for event in act.events]
    assert log_problems(events) == []
    assert replay(events) == {ROOM: set()}
    of_all = [delivery for delivery in receiver.deliveries if delivery.path == "/all"]
    assert delivery_problems(of_all) == []
    assert difference_from_log(of_all, stored_events(migrated_url)) == []
    _check_sessions(events)
    _check_times(events)
    _check_people(events)
    _check_default_types(receiver, events)
    _check_signatures(receiver)


def _check_sessions(events: Sequence[Event]) -> None:
    first, second = dict.fromkeys(event["data"]["session_id"] for event in events)
    assert [event["data"]["session_id"] for event in events] == [first] * 13 + [second] * 4
    closing = next(event["data"] for event in events if event["type"] == "room.empty")
    assert (closing["unique_peers"], closing["visit_count"], closing["peak_peer_count"]) == (4, 5, 3)


def _check_times(events: Sequence[Event]) -> None:
    joined = {event["data"]["peer_id"]: event["data"] for event in events if event["type"] == "peer.joined"}
    assert joined["anna"]["joined_at"] == "2023-11-14T22:13:20.000Z"
    assert joined["bert"]["joined_at_source"] == "upstream"
    assert joined["emil"]["joined_at"] == joined["emil"]["observed_at"]
    assert joined["emil"]["joined_at_source"] == "observed"
    for event in events:
        if event["type"] in ("peer.left", "room.empty"):
            _check_spans(event)


def _check_spans(event: Event) -> None:
    facts = event["data"]
    ended_at = moment(facts.get("left_at") or facts["ended_at"])
    started_at = moment(facts.get("joined_at") or facts["started_at"])
    assert facts["duration_seconds"] == pytest.approx((ended_at - started_at).total_seconds())
    assert facts["uncertainty_seconds"] > 0 or facts.get("leave_reason") == "rejoined"
    if "last_seen_at" in facts:
        unseen_for = (ended_at - moment(facts["last_seen_at"])).total_seconds()
        assert facts["uncertainty_seconds"] == pytest.approx(unseen_for)


def _check_people(events: Sequence[Event]) -> None:
    names = {
        event["data"]["peer_id"]: event["data"]["display_name"] for event in events if event["type"] == "peer.left"
    }
    assert names == {"anna": "Anna A.", "bert": "Bert", "cleo": "cleo", "dora": "dora", "emil": "emil"}
    (updated,) = (event["data"] for event in events if event["type"] == "peer.updated")
    assert (updated["previous_metadata"], updated["metadata"]) == (None, {"hand": "up"})
    assert all(event["data"]["initial"] is False for event in events if event["type"].startswith("peer."))
    assert {(event["data"]["source"], event["data"]["room_name"]) for event in events} == {("main", "Weekly stand-up")}


def _check_default_types(receiver: Receiver, events: Sequence[Event]) -> None:
    """An endpoint without types gets three, the same events as the other."""
    wanted = [event for event in events if event["type"] in ("peer.joined", "peer.left", "room.empty")]
    assert [delivery.event for delivery in receiver.accepted if delivery.path == "/crm"] == wanted


def _check_signatures(receiver: Receiver) -> None:
    deliveries = receiver.deliveries
    assert [delivery.unverified for delivery in deliveries] == [None] * len(deliveries)
    assert npm_outcomes(deliveries, receiver.secret) == [None] * len(deliveries)
    assert None not in npm_outcomes(deliveries, OTHER_SECRET)
    flipped = [with_flipped_byte(delivery, delivery.number * 7) for delivery in deliveries]
    assert None not in npm_outcomes(flipped, receiver.secret)
    for delivery in flipped:
        with pytest.raises(WebhookVerificationError):
            Webhook(receiver.secret).verify(delivery.body, delivery.headers)
    assert {delivery.headers["content-type"] for delivery in deliveries} == {"application/json"}
    assert {delivery.headers["user-agent"].partition("/")[0] for delivery in deliveries} == {"presence-bridge"}
    assert not any("bridge-replay" in delivery.headers for delivery in deliveries)


def test_peers_present_at_the_first_poll_are_marked_initial(
    configure: Configure, simulator: Simulator, receiver: Receiver
) -> None:
    simulator.join(ROOM, "anna")
    config = configure(rooms=[ROOM], endpoints=[receiver.endpoint()])
    with BridgeProcess(config):
        receiver.wait_for_count(2)
        simulator.join(ROOM, "bert")
        events = receiver.wait_for_count(3)
    assert [(event["data"]["peer_id"], event["data"]["initial"]) for event in events[1:]] == [
        ("anna", True),
        ("bert", False),
    ]


def test_changes_during_a_downtime_are_emitted_afterwards(
    configure: Configure, simulator: Simulator, receiver: Receiver
) -> None:
    simulator.join(ROOM, "anna")
    config = configure(rooms=[ROOM], endpoints=[receiver.endpoint()])
    with BridgeProcess(config) as program:
        receiver.wait_for_count(2)
        assert program.stop() == 0
    simulator.swap(ROOM, leave="anna", join="bert")
    with BridgeProcess(config):
        events = receiver.wait_for_count(4)
    assert [brief(event) for event in events[2:]] == [
        ("peer.left", "anna", 0, "absent"),
        ("peer.joined", "bert", 1, None),
    ]
    left = events[2]["data"]
    gap = moment(left["left_at"]) - moment(left["last_seen_at"])
    assert left["uncertainty_seconds"] == pytest.approx(gap.total_seconds())
    assert log_problems(events) == []


@pytest.mark.parametrize("room", ["rooms/ä b?c#d%2F", "日本"])
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_room_id_of_any_characters_is_polled(
    configure: Configure, room: str, simulator: Simulator, receiver: Receiver
) -> None:
    simulator.join(room, "anna")
    config = configure(rooms=[room], endpoints=[receiver.endpoint()])
    with BridgeProcess(config):
        events = receiver.wait_for_count(2)
    assert [event["data"]["room_id"] for event in events] == [room, room]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
