from __future__ import annotations

import pytest

from bridge.delivery.skip import skip_event
from bridge.runtime import system_runtime
from tests.cli.conftest import Cli
from tests.harness.receiver import Delivery, Receiver, Response
from tests.harness.simulator import SimulatorClient

ROOM, OTHER = "abc-defg-hij", "xyz-xyzx-xyz"
EVENT_KEYS = {"event_id", "type", "source", "room_id", "sequence", "endpoint", "endpoint_id"}
ATTEMPT_KEYS = EVENT_KEYS | {
    "id", "kind", "started_at", "duration_seconds", "outcome", "status", "cause", "detail", "response",
}  # fmt: skip
DEAD_KEYS = EVENT_KEYS | {"parked_at", "reason", "tries"}


@pytest.fixture
def tried(cli: Cli, simulator: SimulatorClient, receiver: Receiver) -> Cli:
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


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (("--endpoint", "good"), [("good", OTHER), ("good", ROOM)]),
        (("--room", ROOM, "--endpoint", "bad"), [("bad", ROOM)]),
        (("--endpoint", "other"), []),
        (("--endpoint", "good", "--failed"), []),
        (("--endpoint", "down", "--failed", "--limit", "1"), [("down", OTHER)]),
        (("--endpoint", "down", "--since", "1h", "--room", ROOM), [("down", ROOM)]),
        (("--until", "1h"), []),
    ],
)
def test_attempts_are_filtered(tried: Cli, filters: tuple[str, ...], wanted: list[tuple[str, str]]) -> None:
    attempts = tried("deliveries", "list", "--json", *filters).json()
    assert [(attempt["endpoint"], attempt["room_id"]) for attempt in attempts] == wanted


def test_the_attempts_of_one_event(tried: Cli) -> None:
    (event,) = tried.events("--room", ROOM, "--type", "peer.joined")
    attempts = tried("deliveries", "list", "--json", "--event", event["id"]).json()
    assert {(attempt["endpoint"], attempt["sequence"]) for attempt in attempts} == {
        ("good", 2),
        ("bad", 2),
        ("down", 2),
    }


def test_failed_lists_every_attempt_that_did_not_deliver(tried: Cli) -> None:
    attempts = tried("deliveries", "list", "--json", "--failed").json()
    assert {attempt["endpoint"] for attempt in attempts} == {"bad", "down"}


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
    deliveries = {one["endpoint"]: one for one in shown["deliveries"]}
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


def test_an_event_that_waits_for_another_one_has_no_next_attempt(tried: Cli, simulator: SimulatorClient) -> None:
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    event = tried.events("--room", ROOM)[0]
    down = next(
        one
        for one in tried("deliveries", "show", event["id"], "--json").json()["deliveries"]
        if one["endpoint"] == "down"
    )
    assert (down["state"], down["next_attempt_at"], down["attempts"]) == ("owed", None, [])
    assert "down: owed; it waits for the events before it" in tried("deliveries", "show", event["id"]).out


def test_an_event_older_than_the_endpoint_is_passed_over(
    tried: Cli, receiver: Receiver, simulator: SimulatorClient
) -> None:
    tried("endpoints", "add", "late", f"{receiver.url}/late", "--secret", receiver.secret)
    simulator.join(ROOM, "bert")
    tried("poll", ROOM)
    tried.deliver()
    newer, older = tried.events("--room", ROOM, "--type", "peer.joined")
    states = [
        {
            one["endpoint"]: one["state"]
            for one in tried("deliveries", "show", event["id"], "--json").json()["deliveries"]
        }
        for event in (newer, older)
    ]
    assert [state["late"] for state in states] == ["acknowledged", "passed_over"]


def test_unknown_names_are_errors(tried: Cli) -> None:
    assert "no endpoint is named 'nobody'" in tried.refuses("deliveries", "list", "--endpoint", "nobody", code=1)
    assert "no room has the id 'nowhere'" in tried.refuses("deliveries", "list", "--room", "nowhere", code=1)
    assert "no event has the id 'evt_nope'" in tried.refuses("deliveries", "list", "--event", "evt_nope", code=1)
    assert "no event has the id 'evt_nope'" in tried.refuses(
        "deliveries", "list", "--dead", "--event", "evt_nope", code=1
    )
    assert "no event has the id 'evt_nope'" in tried.refuses("deliveries", "show", "evt_nope", code=1)
    assert "--since" in tried.refuses("deliveries", "list", "--since", "whenever", code=2)


def test_the_next_event_of_a_room_can_be_skipped(tried: Cli, simulator: SimulatorClient, receiver: Receiver) -> None:
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


def test_a_skipped_event_can_be_replayed(tried: Cli, receiver: Receiver) -> None:
    (event,) = tried.events("--room", ROOM, "--type", "peer.joined")
    tried("deliveries", "skip", event["id"], "--endpoint", "down")
    receiver.script()
    tried("deliveries", "replay", event["id"], "--endpoint", "down")
    tried.deliver()
    assert event["id"] in [one.event_id for one in receiver.accepted if one.path == "/down"]
    assert tried("deliveries", "list", "--dead", "--endpoint", "down", "--json").json() == []


def test_only_the_next_owed_event_can_be_skipped(tried: Cli, simulator: SimulatorClient) -> None:
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


def test_a_sender_in_flight_cannot_restore_a_skipped_event(
    cli: Cli, simulator: SimulatorClient, receiver: Receiver
) -> None:
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
