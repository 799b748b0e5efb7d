from __future__ import annotations

import pytest

from bridge.delivery.skip import skip_event
from bridge.runtime import system_runtime
from tests.cli.conftest import ROOM, Cli, Json
from tests.harness.receiver import Delivery, Receiver, Response
from tests.harness.simulator import Simulator

OTHER = "xyz-xyzx-xyz"
EVENT_KEYS = {"event_id", "type", "source", "room_id", "sequence", "endpoint", "endpoint_id"}
ATTEMPT_KEYS = EVENT_KEYS | {
    "id", "kind", "started_at", "duration_seconds", "outcome", "status", "cause", "detail", "response",
}  # fmt: skip
DEAD_KEYS = EVENT_KEYS | {"parked_at", "reason", "tries"}


@pytest.fixture
def tried(cli: Cli, simulator: Simulator, receiver: Receiver) -> Cli:
    """One join in each of two rooms: `good` accepted it, `bad` refused it, `down` fails, `other` filters it out."""
    receiver.script(
        Response(status=400, body=b"no \x1b[31mthanks\x00", when=lambda delivery: delivery.path == "/bad"),
        Response(status=503, body=b"later", when=lambda delivery: delivery.path == "/down"),
    )
    kinds = {"good": ["peer.*"], "bad": ["peer.*"], "down": ["peer.*"], "other": ["peer.left"]}
    cli.configure(
        rooms=[ROOM, OTHER],
        endpoints=[receiver.endpoint(name, events=events) for name, events in kinds.items()],
        delivery={"refused_schedule": [], "retry_schedule": ["1h"]},
    )
    cli.take_up()
    for room in (ROOM, OTHER):
        simulator.join(room, f"anna-of-{room}")
        cli("poll", room)
        cli.deliver()
    return cli


def deliveries_of(cli: Cli, event_id: str) -> dict[str, Json]:
    shown = cli("deliveries", "show", event_id, "--json").json()
    return {one["endpoint"]: one for one in shown["deliveries"]}


def test_attempts_are_listed_newest_first(tried: Cli) -> None:
    attempts = tried("deliveries", "list", "--json").json()
    assert len(attempts) == 6
    assert all(attempt.keys() == ATTEMPT_KEYS for attempt in attempts)
    assert [attempt["room_id"] for attempt in attempts] == [OTHER] * 3 + [ROOM] * 3
    ids = [int(attempt["id"].removeprefix("att_")) for attempt in attempts]
    assert ids == sorted(ids, reverse=True)
    bad = next(attempt for attempt in attempts if attempt["endpoint"] == "bad")
    assert (bad["outcome"], bad["status"], bad["kind"], bad["type"]) == ("rejected", 400, "live", "peer.joined")
    assert bad["response"].startswith("no \x1b[31mthanks")


def test_attempts_are_filtered(tried: Cli) -> None:
    wanted = {
        ("--endpoint", "good"): [("good", OTHER), ("good", ROOM)],
        ("--room", ROOM, "--endpoint", "bad"): [("bad", ROOM)],
        ("--endpoint", "other"): [],
        ("--endpoint", "good", "--failed"): [],
        ("--endpoint", "down", "--failed", "--limit", "1"): [("down", OTHER)],
        ("--endpoint", "down", "--since", "1h", "--room", ROOM): [("down", ROOM)],
        ("--until", "1h"): [],
    }
    for filters, listed in wanted.items():
        attempts = tried("deliveries", "list", "--json", *filters).json()
        assert [(attempt["endpoint"], attempt["room_id"]) for attempt in attempts] == listed, filters


def test_the_attempts_of_one_event(tried: Cli) -> None:
    (event,) = tried.events("--room", ROOM, "--type", "peer.joined")
    attempts = tried("deliveries", "list", "--json", "--event", event["id"]).json()
    assert sorted((one["endpoint"], one["sequence"]) for one in attempts) == [("bad", 2), ("down", 2), ("good", 2)]


def test_dead_letters_are_listed(tried: Cli) -> None:
    letters = tried("deliveries", "list", "--dead", "--json").json()
    assert all(letter.keys() == DEAD_KEYS for letter in letters)
    assert [(letter["endpoint"], letter["room_id"], letter["reason"], letter["tries"]) for letter in letters] == [
        ("bad", OTHER, "rejected", 1),
        ("bad", ROOM, "rejected", 1),
    ]
    assert tried("deliveries", "list", "--dead", "--endpoint", "good", "--json").json() == []
    assert tried("deliveries", "list", "--dead", "--until", "1h", "--json").json() == []
    assert "rejected, 1 attempt" in tried("deliveries", "list", "--dead").out


def test_the_delivery_of_one_event_is_shown_for_each_endpoint(tried: Cli) -> None:
    (event,) = tried.events("--room", ROOM, "--type", "peer.joined")
    shown = tried("deliveries", "show", event["id"], "--json").json()
    assert shown["event"] == event
    deliveries = deliveries_of(tried, event["id"])
    assert {name: (one["state"], len(one["attempts"])) for name, one in deliveries.items()} == {
        "good": ("acknowledged", 1),
        "bad": ("dead", 1),
        "down": ("owed", 1),
        "other": ("passed_over", 0),
    }
    assert deliveries["bad"]["dead_letter"]["reason"] == "rejected"
    assert deliveries["down"]["next_attempt_at"] > event["data"]["observed_at"]
    assert deliveries["good"]["next_attempt_at"] is None


def test_the_delivery_of_one_event_as_text(tried: Cli) -> None:
    (event,) = tried.events("--room", ROOM, "--type", "peer.joined")
    out = tried("deliveries", "show", event["id"]).out
    for words in (
        "good: acknowledged (1 attempt)",
        "bad: dead (rejected)",
        "rejected 400",
        "response: no \\x1b[31mthanks",
        "down: owed; next attempt in ",
        "other: passed over",
        f"anna-of-{ROOM}",
    ):
        assert words in out
    assert "\x1b" not in out


def test_an_event_that_waits_for_another_one_has_no_next_attempt(tried: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    event = tried.events("--room", ROOM)[0]
    down = deliveries_of(tried, event["id"])["down"]
    assert (down["state"], down["next_attempt_at"], down["attempts"]) == ("owed", None, [])
    assert "down: owed; it waits for the events before it" in tried("deliveries", "show", event["id"]).out


def test_an_event_older_than_the_endpoint_is_passed_over(tried: Cli, receiver: Receiver, simulator: Simulator) -> None:
    tried("endpoints", "add", "late", f"{receiver.url}/late", "--secret", receiver.secret)
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    tried.deliver()
    newer, older = tried.events("--room", ROOM, "--type", "peer.joined")
    assert deliveries_of(tried, newer["id"])["late"]["state"] == "acknowledged"
    assert deliveries_of(tried, older["id"])["late"]["state"] == "passed_over"


def test_an_event_that_is_addressed_to_others_is_passed_over(
    cli: Cli, simulator: Simulator, receiver: Receiver
) -> None:
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")], polling={"first_snapshot": "baseline"})
    simulator.join(ROOM, "anna")
    cli.take_up()
    cli("poll", ROOM)
    simulator.join(ROOM, "bert")
    cli("poll", ROOM)
    joined, present = cli.events("--room", ROOM, "--type", "peer.joined")
    assert deliveries_of(cli, present["id"])["crm"]["state"] == "passed_over"
    owed = deliveries_of(cli, joined["id"])["crm"]
    assert (owed["state"], owed["next_attempt_at"] is None) == ("owed", False), "nothing is before it"


def test_an_erased_event_is_in_nobodys_way(tried: Cli, simulator: Simulator) -> None:
    simulator.leave(ROOM, f"anna-of-{ROOM}")
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    bert = tried.events("--room", ROOM, "--type", "peer.joined")[0]
    assert deliveries_of(tried, bert["id"])["down"]["next_attempt_at"] is None
    tried("privacy", "erase", "--peer", f"anna-of-{ROOM}", "--yes")
    assert deliveries_of(tried, bert["id"])["down"]["next_attempt_at"] is not None
    tried("deliveries", "skip", bert["id"], "--endpoint", "down")


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("list", "--endpoint", "nobody"), "no endpoint is named 'nobody'", 1),
        (("list", "--room", "nowhere"), "no room has the id 'nowhere'", 1),
        (("list", "--event", "evt_nope"), "no event has the id 'evt_nope'", 1),
        (("list", "--dead", "--event", "evt_nope"), "no event has the id 'evt_nope'", 1),
        (("show", "evt_nope"), "no event has the id 'evt_nope'", 1),
        (("list", "--since", "whenever"), "--since", 2),
    ],
)
def test_unknown_names_are_errors(cli: Cli, arguments: tuple[str, ...], message: str, code: int) -> None:
    cli.take_up()
    assert message in cli.refuses("deliveries", *arguments, code=code)


def test_the_next_event_of_a_room_can_be_skipped(tried: Cli, simulator: Simulator, receiver: Receiver) -> None:
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    later, first = tried.events("--room", ROOM, "--type", "peer.joined")
    receiver.script()
    done = tried("deliveries", "skip", first["id"], "--endpoint", "down")
    assert done.out == ""
    assert f'{first["id"]} is a dead letter of "down"' in done.err
    (letter,) = tried("deliveries", "list", "--dead", "--endpoint", "down", "--json").json()
    assert (letter["event_id"], letter["reason"], letter["tries"]) == (first["id"], "skipped", 1)
    tried.deliver()
    accepted = [one.event_id for one in receiver.accepted if one.path == "/down"]
    assert accepted == [later["id"]]


def test_only_the_next_owed_event_can_be_skipped(tried: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    later, first = tried.events("--room", ROOM, "--type", "peer.joined")

    def refusal(event_id: str, endpoint: str, code: int = 2) -> str:
        return tried.refuses("deliveries", "skip", event_id, "--endpoint", endpoint, code=code)

    assert f"{first['id']}: skip that first" in refusal(later["id"], "down")
    assert "has acknowledged it" in refusal(first["id"], "good")
    assert "was given up" in refusal(first["id"], "bad")
    assert "was never owed to endpoint 'other'" in refusal(first["id"], "other")
    assert "no event has the id" in refusal("evt_nope", "down", code=1)
    assert "no endpoint is named" in refusal(first["id"], "nobody", code=1)
    assert [one["owed_events"] for one in tried("endpoints", "list", "--json").json() if one["name"] == "down"] == [3]


def test_a_listing_has_a_limit_and_names_the_number_of_the_others(tried: Cli) -> None:
    assert len(tried("deliveries", "list", "--json", "--limit", "2").json()) == 2
    assert tried("deliveries", "list", "--limit", "2").err.startswith("4 more are not shown")
    assert tried("deliveries", "list", "--limit", "6").err == ""
    assert tried("deliveries", "list", "--dead", "--limit", "1", "--json").err.startswith("1 more is not shown")


def test_a_sender_in_flight_cannot_restore_a_skipped_event(cli: Cli, simulator: Simulator, receiver: Receiver) -> None:
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm", events=["peer.joined"])])
    cli.take_up()
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    database = cli.database()

    def skip(delivery: Delivery) -> None:
        database.write_now(skip_event, "crm", delivery.event_id, system_runtime().now())

    receiver.script(Response(status=500, before=skip))
    cli.deliver()
    cli.deliver()
    database.close()

    assert len(receiver.deliveries) == 1
    assert [one["reason"] for one in cli("deliveries", "list", "--dead", "--json").json()] == ["skipped"]
    (endpoint,) = cli("endpoints", "list", "--json").json()
    assert (endpoint["owed_events"], endpoint["dead_letters"]) == (0, 1)
