from __future__ import annotations

import pytest

from tests.cli.conftest import Cli
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

ROOM, OTHER = "abc-defg-hij", "xyz-xyzx-xyz"
EVENT_KEYS = {"event_id", "type", "source", "room_id", "sequence", "endpoint", "endpoint_id"}
ATTEMPT_KEYS = EVENT_KEYS | {
    "id", "kind", "started_at", "duration_seconds", "outcome", "status", "cause", "detail", "response",
}  # fmt: skip
DEAD_KEYS = EVENT_KEYS | {"parked_at", "reason", "tries"}


@pytest.fixture
def tried(cli: Cli, simulator: Simulator, receiver: Receiver) -> Cli:
    """One join in each of two rooms: `good` took it, `bad` refused it, `down` is in trouble, `other` does not care."""
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
    assert (bad["outcome"], bad["status"], bad["kind"], bad["type"]) == ("refused", 400, "live", "peer.joined")
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


def test_failed_attempts_are_all_but_the_delivered(tried: Cli) -> None:
    attempts = tried("deliveries", "list", "--json", "--failed").json()
    assert {attempt["endpoint"] for attempt in attempts} == {"bad", "down"}


def test_dead_letters_are_listed(tried: Cli) -> None:
    letters = tried("deliveries", "list", "--dead", "--json").json()
    assert all(letter.keys() == DEAD_KEYS for letter in letters)
    assert [(letter["endpoint"], letter["room_id"], letter["reason"], letter["tries"]) for letter in letters] == [
        ("bad", OTHER, "refused", 1),
        ("bad", ROOM, "refused", 1),
    ]
    assert tried("deliveries", "list", "--dead", "--endpoint", "good", "--json").json() == []
    assert tried("deliveries", "list", "--dead", "--until", "1h", "--json").json() == []
    assert "refused, 1 attempt" in tried("deliveries", "list", "--dead").out


def test_an_event_stands_where_each_endpoint_has_left_it(tried: Cli) -> None:
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
    assert deliveries["bad"]["dead_letter"]["reason"] == "refused"
    assert deliveries["down"]["next_attempt_at"] > event["data"]["observed_at"]
    assert deliveries["good"]["next_attempt_at"] is None


def test_people_are_told_the_same(tried: Cli) -> None:
    (event,) = tried.events("--room", ROOM, "--type", "peer.joined")
    out = tried("deliveries", "show", event["id"]).out
    for words in (
        "good: acknowledged (1 attempt)",
        "bad: dead (refused)",
        "refused 400",
        "answered: no \\x1b[31mthanks",
        "down: owed; next attempt in ",
        "other: passed over",
        f"anna-of-{ROOM}",
    ):
        assert words in out
    assert "\x1b" not in out


def test_what_waits_behind_another_event_says_so(tried: Cli, simulator: Simulator) -> None:
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


def test_who_came_later_was_passed_over(tried: Cli, receiver: Receiver, simulator: Simulator) -> None:
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


def test_unknown_names_are_no_empty_listings(tried: Cli) -> None:
    assert "no endpoint is named 'nobody'" in tried.refuses("deliveries", "list", "--endpoint", "nobody", code=1)
    assert "no room 'nowhere'" in tried.refuses("deliveries", "list", "--room", "nowhere", code=1)
    assert "no event 'evt_nope'" in tried.refuses("deliveries", "list", "--event", "evt_nope", code=1)
    assert "no event 'evt_nope'" in tried.refuses("deliveries", "list", "--dead", "--event", "evt_nope", code=1)
    assert "no event 'evt_nope'" in tried.refuses("deliveries", "show", "evt_nope", code=1)
    assert "--since" in tried.refuses("deliveries", "list", "--since", "whenever", code=2)
