"""A meeting by script, through the real program: exactly the events of CONTRACT section 4, in order, signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.npm_verifier import npm_verdicts, with_flipped_byte
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Event, Receiver
from tests.harness.simulator import SimulatorClient

ROOM = "abc-defg-hij"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

Told = tuple[str, str | None, int, str | None]
"""Type, peer, peer_count, reason."""


@dataclass(frozen=True)
class Act:
    """Something that happens between two polls, and everything that is told of it."""

    what: Callable[[SimulatorClient], None]
    told: Sequence[Told]


def _first_two_arrive(runtime: SimulatorClient) -> None:
    """The one who is named first came last."""
    start = 1_700_000_000_000
    runtime.script(
        {"room": ROOM, "do": "join", "peer_id": "anna", "join_time": start, "metadata": {"displayName": "Anna A."}},
        {"room": ROOM, "do": "join", "peer_id": "bert", "join_time": start - 5000, "metadata": {"name": "Bert"}},
    )


def _bert_returns_under_his_id(runtime: SimulatorClient) -> None:
    runtime.script(
        {"room": ROOM, "do": "leave", "peer_id": "bert"},
        {"room": ROOM, "do": "join", "peer_id": "bert", "metadata": {"name": "Bert"}},
    )


def _last_two_leave_at_once(runtime: SimulatorClient) -> None:
    runtime.script(
        {"room": ROOM, "do": "leave", "peer_id": "bert"},
        {"room": ROOM, "do": "leave", "peer_id": "cleo"},
    )


ACTS = [
    Act(
        _first_two_arrive,
        [("room.occupied", None, 2, None), ("peer.joined", "bert", 1, None), ("peer.joined", "anna", 2, None)],
    ),
    Act(lambda runtime: runtime.join(ROOM, "cleo"), [("peer.joined", "cleo", 3, None)]),
    Act(
        lambda runtime: runtime.swap(ROOM, leave="anna", join="dora"),
        [("peer.left", "anna", 2, "absent"), ("peer.joined", "dora", 3, None)],
    ),
    Act(_bert_returns_under_his_id, [("peer.left", "bert", 2, "rejoined"), ("peer.joined", "bert", 3, None)]),
    Act(lambda runtime: runtime.set_metadata(ROOM, "cleo", {"hand": "up"}), [("peer.updated", "cleo", 3, None)]),
    Act(lambda runtime: runtime.leave(ROOM, "dora"), [("peer.left", "dora", 2, "absent")]),
    Act(
        _last_two_leave_at_once,
        [("peer.left", "bert", 1, "absent"), ("peer.left", "cleo", 0, "absent"), ("room.empty", None, 0, "absent")],
    ),
    Act(lambda runtime: runtime.settings(end_lag_seconds=0), []),  # the upstream says 404 instead of nobody: no news
    Act(
        lambda runtime: runtime.join(ROOM, "emil", omit_join_time=True, omit_metadata=True),
        [("room.occupied", None, 1, None), ("peer.joined", "emil", 1, None)],
    ),
    Act(
        lambda runtime: runtime.end(ROOM),
        [("peer.left", "emil", 0, "session_ended"), ("room.empty", None, 0, "no_session")],
    ),
]


@contextmanager
def meeting(
    directory: Path, database_url: str, simulator: SimulatorClient, receiver: Receiver
) -> Iterator[BridgeProcess]:
    """The bridge, watching an empty room in which an empty session does not end by itself."""
    simulator.settings(end_lag_seconds=3600)
    config = write_config(
        directory / "bridge.toml",
        database_url=database_url,
        upstream=simulator.url,
        rooms=[{"id": ROOM, "name": "Weekly stand-up"}],
        endpoints=[receiver.endpoint("all"), {"name": "crm", "url": f"{receiver.url}/crm", "secret": receiver.secret}],
    )
    with BridgeProcess(config) as program:
        program.wait_ready()
        simulator.wait_for_polls(2, ROOM)
        yield program


def play(simulator: SimulatorClient, receiver: Receiver) -> list[Event]:
    """Let it happen, act by act; what was told is told before the next act begins."""
    count = 0
    for act in ACTS:
        act.what(simulator)
        count += len(act.told)
        receiver.wait_for(lambda _: len(everything(receiver)) >= count, f"what follows from {act.told}")  # noqa: B023 - called at once
        simulator.wait_for_polls(3, ROOM)
    return everything(receiver)


def everything(receiver: Receiver) -> list[Event]:
    """What the endpoint got that wants all types."""
    return [delivery.event for delivery in receiver.accepted if delivery.path == "/all"]


def told(event: Event) -> Told:
    facts = event["data"]
    return (
        event["type"],
        facts.get("peer_id"),
        facts["peer_count"],
        facts.get("leave_reason") or facts.get("empty_reason"),
    )


def test_a_scripted_meeting_is_told_exactly_and_in_order(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    with meeting(tmp_path, ready_url, simulator, receiver) as program:
        events = play(simulator, receiver)
        assert program.stop() == 0
    assert [told(event) for event in events] == [said for act in ACTS for said in act.told]
    assert log_problems(events) == []
    assert replay(events) == {ROOM: set()}
    of_all = [delivery for delivery in receiver.deliveries if delivery.path == "/all"]
    assert delivery_problems(of_all) == []
    assert difference_from_log(of_all, stored_events(ready_url)) == []
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
        seen_for = (ended_at - moment(facts["last_seen_at"])).total_seconds()
        assert facts["uncertainty_seconds"] == pytest.approx(seen_for)


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
    """An endpoint that names no types gets three, the same events as anybody else."""
    wanted = [event for event in events if event["type"] in ("peer.joined", "peer.left", "room.empty")]
    assert [delivery.event for delivery in receiver.accepted if delivery.path == "/crm"] == wanted


def _check_signatures(receiver: Receiver) -> None:
    deliveries = receiver.deliveries
    assert [delivery.unverified for delivery in deliveries] == [None] * len(deliveries)
    assert npm_verdicts(deliveries, receiver.secret) == [None] * len(deliveries)
    assert None not in npm_verdicts(deliveries, OTHER_SECRET)
    flipped = [with_flipped_byte(delivery, delivery.assign_sequences * 7) for delivery in deliveries]
    assert None not in npm_verdicts(flipped, receiver.secret)
    for delivery in flipped:
        with pytest.raises(WebhookVerificationError):
            Webhook(receiver.secret).verify(delivery.body, delivery.headers)
    assert {delivery.headers["content-type"] for delivery in deliveries} == {"application/json"}
    assert {delivery.headers["user-agent"].partition("/")[0] for delivery in deliveries} == {"presence-bridge"}
    assert not any("bridge-replay" in delivery.headers for delivery in deliveries)


def test_who_was_there_before_is_told_as_initial(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    simulator.join(ROOM, "anna")
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=[ROOM],
        endpoints=[receiver.endpoint()],
    )
    with BridgeProcess(config):
        receiver.wait_for_count(2)
        simulator.join(ROOM, "bert")
        events = receiver.wait_for_count(3)
    assert [(event["data"]["peer_id"], event["data"]["initial"]) for event in events[1:]] == [
        ("anna", True),
        ("bert", False),
    ]


def test_what_happened_during_a_downtime_is_told_afterwards(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    simulator.join(ROOM, "anna")
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=[ROOM],
        endpoints=[receiver.endpoint()],
    )
    with BridgeProcess(config) as program:
        receiver.wait_for_count(2)
        assert program.stop() == 0
    simulator.swap(ROOM, leave="anna", join="bert")
    with BridgeProcess(config):
        events = receiver.wait_for_count(4)
    assert [told(event) for event in events[2:]] == [
        ("peer.left", "anna", 0, "absent"),
        ("peer.joined", "bert", 1, None),
    ]
    left = events[2]["data"]
    gap = moment(left["left_at"]) - moment(left["last_seen_at"])
    assert left["uncertainty_seconds"] == pytest.approx(gap.total_seconds())
    assert log_problems(events) == []


@pytest.mark.parametrize("room", ["rooms/ä b?c#d%2F", "日本"])
def test_a_room_id_of_any_characters_is_polled(
    room: str, tmp_path: Path, sqlite_database_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    simulator.script({"room": room, "do": "join", "peer_id": "anna"})
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=sqlite_database_url,
        upstream=simulator.url,
        rooms=[room],
        endpoints=[receiver.endpoint()],
    )
    with BridgeProcess(config):
        events = receiver.wait_for_count(2)
    assert [event["data"]["room_id"] for event in events] == [room, room]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
