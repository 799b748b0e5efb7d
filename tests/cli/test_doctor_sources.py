from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlsplit

import pytest

from bridge.sources.checkup import Checkup, parse_date
from tests.cli.conftest import Cli
from tests.harness.doctor_runs import (
    ROOM,
    Listener,
    ago,
    answering,
    change,
    closed_port,
    examine,
    only,
    serve_once,
)
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LIVE_SESSIONS = b'{"liveSessions":[]}'


@pytest.fixture
def busy(cli: Cli, simulator: Simulator, receiver: Receiver) -> Cli:
    return serve_once(cli, simulator, receiver)


@pytest.mark.parametrize(
    ("fault", "state", "detail"),
    [
        ({"kind": "unauthorized"}, "fail", "key refused (401)"),
        ({"kind": "rate_limited"}, "warn", "too many requests (429)"),
        ({"kind": "rate_limited", "retry_after": 30}, "warn", "too many requests (429), asks for a pause of 30s"),
        ({"kind": "status", "status": 503}, "fail", "server error (503)"),
        ({"kind": "html_200"}, "fail", "the body is not JSON"),
        ({"kind": "not_found_page"}, "fail", "status 404"),
        ({"kind": "redirect"}, "fail", "a redirect, which is not followed"),
        ({"kind": "reset"}, "fail", "unreachable: reset"),
        ({"kind": "timeout"}, "fail", "timeout: no whole response within 0.5 s"),
    ],
)
def test_how_a_source_answers(
    cli: Cli, simulator: Simulator, fault: Mapping[str, object], state: str, detail: str
) -> None:
    cli.configure(sources={"main": {"timeout": "500ms"}}, rooms=[ROOM])
    simulator.faults(fault)

    found = examine(cli, code=1 if state == "fail" else 0)

    key = only(found, "api_key", "main")
    assert key["state"] == state
    assert detail in key["detail"]
    assert key["advice"]
    assert only(found, "room")["detail"] == "not polled yet"
    assert simulator.polls() == []


def test_the_wrong_key_is_refused(cli: Cli) -> None:
    cli.configure(sources={"main": {"api_key": "ak_wrong"}, "other": {}})

    found = examine(cli, code=1)

    assert only(found, "api_key", "main")["detail"] == "key refused (401)"
    assert "[sources.main]" in only(found, "api_key", "main")["advice"]
    assert only(found, "api_key", "other")["state"] == "ok"


@pytest.mark.parametrize(
    ("base_url", "word"),
    [
        ("http://no-such-name.invalid/api", "dns"),
        ("http://127.0.0.1:{closed}/", "connect"),
        ("https://{plain}/", "tls"),
    ],
)
def test_why_a_source_is_unreachable(cli: Cli, receiver: Receiver, base_url: str, word: str) -> None:
    url = base_url.format(closed=closed_port(), plain=urlsplit(receiver.url).netloc)
    cli.configure(sources={"main": {"base_url": url}})

    found = examine(cli, code=1)

    assert only(found, "api_key")["detail"].startswith(f"unreachable: {word}")
    assert [one for one in found if one["check"] == "clock"] == []


def test_no_live_room_is_a_good_answer(cli: Cli) -> None:
    none = b'{"ok": false, "message": "No live sessions found"}'
    with Listener(answering(none, status="404 Not Found")) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")

        assert only(examine(cli), "api_key")["state"] == "ok"
        assert upstream.received.startswith(b"GET /api/v2/sdk/live-sessions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("ahead", "state", "detail"),
    [
        (timedelta(), "ok", "agrees with"),
        (timedelta(seconds=3), "ok", "agrees with"),
        (timedelta(seconds=60), "warn", "behind"),
        (timedelta(seconds=-60), "warn", "ahead of"),
        (timedelta(minutes=20), "fail", "20m behind"),
        (timedelta(minutes=-20), "fail", "ahead of"),
    ],
)
def test_a_clock_that_is_wrong(cli: Cli, ahead: timedelta, state: str, detail: str) -> None:
    date = format_datetime(datetime.now(UTC).replace(microsecond=0) + ahead + timedelta(seconds=1), usegmt=True)
    with Listener(answering(LIVE_SESSIONS, f"date: {date}")) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")
        clock = only(examine(cli, code=1 if state == "fail" else 0), "clock")

    assert clock["state"] == state
    assert detail.rsplit(maxsplit=1)[-1] in clock["detail"]
    assert ("NTP" in (clock["advice"] or "")) == (state != "ok")


@pytest.mark.parametrize("headers", [(), ("date: yesterday",)])
def test_an_upstream_that_does_not_say_its_time(cli: Cli, headers: Sequence[str]) -> None:
    with Listener(answering(LIVE_SESSIONS, *headers)) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")
        clock = only(examine(cli), "clock")

    assert clock["detail"].startswith("not compared")


@pytest.mark.parametrize(
    ("dated_after", "skew"),
    [(-10.0, 9.0), (-1.0, 0.0), (-0.5, 0.0), (0.0, 0.0), (4.0, 0.0), (5.0, -1.0), (64.0, -60.0)],
)
def test_a_slow_answer_is_no_skew(dated_after: float, skew: float) -> None:
    checkup = Checkup(
        failure=None,
        asked_at=NOW,
        answered_at=NOW + timedelta(seconds=4),
        dated_at=NOW + timedelta(seconds=dated_after),
    )

    assert checkup.clock_skew == timedelta(seconds=skew)


@pytest.mark.parametrize("header", [None, "", "yesterday", "Mon, 99 Nov 2026 09:30:00 GMT", "1764063000"])
def test_a_date_that_cannot_be_read_is_none(header: str | None) -> None:
    assert parse_date(header) is None


def test_a_date_is_in_utc() -> None:
    assert parse_date("Mon, 23 Nov 2026 09:30:00 GMT") == NOW
    assert parse_date("Mon, 23 Nov 2026 09:30:00 -0000") == NOW


def test_what_the_pollers_think_of_a_source_is_told(busy: Cli) -> None:
    change(
        busy, "UPDATE sources SET condition = 'unauthorized', since = ?, paused_until = ?", ago(hours=2), ago(hours=-1)
    )

    source = only(examine(busy), "source")

    assert source["state"] == "warn"
    assert source["detail"].startswith("unauthorized for 2h, next try in 59m")

    change(busy, "UPDATE sources SET condition = 'failing', paused_until = ?", ago(hours=1))
    assert only(examine(busy), "source")["detail"] == "failing for 2h: its rooms are hardly polled"


def test_a_room_that_was_live_is_well(busy: Cli) -> None:
    room = only(examine(busy), "room", ROOM)

    assert room["state"] == "ok"
    assert room["detail"].startswith("polled ")


def test_a_room_that_was_never_live_may_not_exist(cli: Cli) -> None:
    cli("rooms", "add", ROOM)
    cli("poll", ROOM)

    room = only(examine(cli), "room", ROOM)

    assert room["state"] == "warn"
    assert "unknown to Huddle01 or never live: both read_health the same" in room["detail"]


def test_a_room_that_fails_is_a_warning_until_it_lasts(busy: Cli, simulator: Simulator) -> None:
    simulator.faults({"kind": "status", "status": 500}, room=ROOM)
    busy("poll", ROOM, code=1)
    room = only(examine(busy), "room")
    assert (room["state"], "1 failure in a row: server_error: status 500" in room["detail"]) == ("warn", True)

    change(busy, "UPDATE rooms SET failures = 5, complete_at = ?", ago(minutes=10))
    room = only(examine(busy, code=1), "room")
    assert room["state"] == "fail"
    assert room["detail"].startswith("last whole response 10m")


def test_a_room_that_never_answered_says_so(cli: Cli, simulator: Simulator) -> None:
    cli("rooms", "add", ROOM)
    simulator.faults({"kind": "html_200"}, room=ROOM)
    cli("poll", ROOM, code=1)

    assert only(examine(cli), "room")["detail"].startswith("no whole response yet, 1 failure in a row")


def test_a_disabled_room_is_said_to_be_that(cli: Cli) -> None:
    cli.configure(rooms=[{"id": ROOM, "enabled": False}])
    assert only(examine(cli), "room")["detail"] == "disabled, so it is not polled"
    cli.take_up()
    assert only(examine(cli), "room")["state"] == "ok"


@pytest.mark.parametrize("is_taken_up", [True, False])
def test_rooms_that_were_never_polled_are_asked_for(cli: Cli, simulator: Simulator, *, is_taken_up: bool) -> None:
    cli.configure(rooms=[ROOM, "quiet", "broken"])
    simulator.join(ROOM, "anna")
    simulator.faults({"kind": "status", "status": 500}, room="broken")
    if is_taken_up:
        cli.take_up()

    found = examine(cli)

    assert only(found, "room", ROOM)["detail"] == "not polled yet; live now, 1 peer"
    assert only(found, "room", "quiet")["state"] == "warn"
    assert "both read_health the same" in only(found, "room", "quiet")["detail"]
    assert only(found, "room", "broken")["detail"].startswith("server_error: status 500")


def test_rooms_of_several_sources_are_told_apart(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "other": {}}, rooms=[{"id": ROOM, "source": name} for name in ("main", "other")])

    found = examine(cli)

    assert only(found, "room", f"main/{ROOM}")
    assert only(found, "room", f"other/{ROOM}")


def test_many_rooms_are_counted(cli: Cli, simulator: Simulator) -> None:
    rooms = [f"room-{assign_sequences:02}" for assign_sequences in range(30)]
    cli.configure(rooms=[{"id": ROOM, "enabled": False}, *rooms])
    cli.take_up()
    for assign_sequences in range(23):
        cli("poll", rooms[assign_sequences], "--json")
    change(cli, "UPDATE rooms SET failures = 9, last_failure = 'reset' WHERE upstream_id = 'room-00'")
    polls = len(simulator.polls())

    told = [one for one in examine(cli, code=1) if one["check"] == "room"]

    assert [(one["subject"], one["state"]) for one in told] == [
        ("1 room", "fail"),
        ("22 rooms", "warn"),
        ("7 rooms", "warn"),
        ("1 room", "ok"),
    ]
    assert told[0]["detail"] == "cannot be polled: room-00"
    assert told[1]["detail"].endswith("room-01, room-02, room-03, room-04, room-05 and 17 more")
    assert told[3]["detail"] == "disabled"
    assert len(simulator.polls()) == polls
