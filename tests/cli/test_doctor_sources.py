from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlsplit

import pytest

from bridge.sources.checkup import Checkup, parse_date
from tests.cli.conftest import ROOM, Cli
from tests.harness.doctor_runs import ago, examine, http_response, only
from tests.harness.postgres import free_port
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.tables import change
from tests.harness.wire import RawReceiverThread

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LIVE_SESSIONS = b'{"liveSessions":[]}'


@pytest.mark.parametrize(
    ("fault", "state", "detail"),
    [
        ({"kind": "unauthorized"}, "fail", "key refused (401)"),
        ({"kind": "rate_limited"}, "warn", "too many requests (429)"),
        ({"kind": "rate_limited", "retry_after": 30}, "warn", "too many requests (429), Retry-After is 30s"),
        ({"kind": "status", "status": 503}, "fail", "server error (503)"),
        ({"kind": "html_200"}, "fail", "the body is not JSON"),
        ({"kind": "not_found_page"}, "fail", "status 404"),
        ({"kind": "redirect"}, "fail", "a redirect, which is not followed"),
        ({"kind": "reset"}, "fail", "unreachable: reset"),
        ({"kind": "timeout"}, "fail", "timeout: no complete response within 0.5 s"),
    ],
)
def test_the_response_of_a_source(
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
    url = base_url.format(closed=free_port(), plain=urlsplit(receiver.url).netloc)
    cli.configure(sources={"main": {"base_url": url}})

    found = examine(cli, code=1)

    assert only(found, "api_key")["detail"].startswith(f"unreachable: {word}")
    assert [one for one in found if one["check"] == "clock"] == []


def test_no_live_room_is_a_good_response(cli: Cli) -> None:
    none = b'{"ok": false, "message": "No live sessions found"}'
    with RawReceiverThread(http_response(none, status="404 Not Found")) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")

        assert only(examine(cli), "api_key")["state"] == "ok"
        assert upstream.receiver.requests[0].line == "GET /api/v2/sdk/live-sessions HTTP/1.1"


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
    with RawReceiverThread(http_response(LIVE_SESSIONS, f"date: {date}")) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")
        clock = only(examine(cli, code=1 if state == "fail" else 0), "clock")

    assert clock["state"] == state
    assert detail.rsplit(maxsplit=1)[-1] in clock["detail"]
    assert ("NTP" in (clock["advice"] or "")) == (state != "ok")


@pytest.mark.parametrize("headers", [(), ("date: yesterday",)])
def test_an_upstream_that_sends_no_date(cli: Cli, headers: Sequence[str]) -> None:
    with RawReceiverThread(http_response(LIVE_SESSIONS, *headers)) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")
        clock = only(examine(cli), "clock")

    assert clock["detail"].startswith("not compared")


@pytest.mark.parametrize(
    ("dated_after", "skew"),
    [(-10.0, 9.0), (-1.0, 0.0), (-0.5, 0.0), (0.0, 0.0), (4.0, 0.0), (5.0, -1.0), (64.0, -60.0)],
)
def test_a_slow_response_is_no_skew(dated_after: float, skew: float) -> None:
    checkup = Checkup(
        failure=None,
        asked_at=NOW,
        responded_at=NOW + timedelta(seconds=4),
        dated_at=NOW + timedelta(seconds=dated_after),
    )

    assert checkup.clock_skew == timedelta(seconds=skew)


@pytest.mark.parametrize("header", [None, "", "yesterday", "Mon, 99 Nov 2026 09:30:00 GMT", "1764063000"])
def test_a_date_that_cannot_be_read_is_none(header: str | None) -> None:
    assert parse_date(header) is None


def test_a_date_is_in_utc() -> None:
    assert parse_date("Mon, 23 Nov 2026 09:30:00 GMT") == NOW
    assert parse_date("Mon, 23 Nov 2026 09:30:00 -0000") == NOW


def test_a_room_that_was_never_live_may_not_exist(tracked: Cli) -> None:
    tracked("poll", ROOM)

    room = only(examine(tracked), "room", ROOM)

    assert room["state"] == "warn"
    assert "never seen live; the upstream responds the same for an unknown id" in room["detail"]


def test_a_room_that_fails_is_a_warning_until_it_lasts(busy: Cli, simulator: Simulator) -> None:
    simulator.faults({"kind": "status", "status": 500}, room=ROOM)
    busy("poll", ROOM, code=1)
    room = only(examine(busy), "room")
    assert (room["state"], "1 failure in a row: server_error: status 500" in room["detail"]) == ("warn", True)

    change(busy.database_url, "UPDATE rooms SET failures = 5, complete_at = :at", at=ago(minutes=10))
    room = only(examine(busy, code=1), "room")
    assert room["state"] == "fail"
    assert room["detail"].startswith("last complete snapshot 10m")


def test_a_room_without_any_snapshot_is_reported_as_such(tracked: Cli, simulator: Simulator) -> None:
    simulator.faults({"kind": "html_200"}, room=ROOM)
    tracked("poll", ROOM, code=1)

    assert only(examine(tracked), "room")["detail"].startswith("no complete snapshot yet, 1 failure in a row")


def test_a_disabled_room_is_ok(cli: Cli) -> None:
    cli.configure(rooms=[{"id": ROOM, "enabled": False}])
    assert only(examine(cli), "room")["detail"] == "disabled, not polled"
    cli.take_up()
    assert only(examine(cli), "room")["state"] == "ok"


@pytest.mark.parametrize("is_taken_up", [True, False])
def test_rooms_without_a_poll_are_polled_now(cli: Cli, simulator: Simulator, *, is_taken_up: bool) -> None:
    cli.configure(rooms=[ROOM, "quiet", "broken"])
    simulator.join(ROOM, "anna")
    simulator.faults({"kind": "status", "status": 500}, room="broken")
    if is_taken_up:
        cli.take_up()

    found = examine(cli)

    assert only(found, "room", ROOM)["detail"] == "not polled before; live now, 1 peer"
    assert only(found, "room", "quiet")["state"] == "warn"
    assert "never seen live" in only(found, "room", "quiet")["detail"]
    assert only(found, "room", "broken")["detail"].startswith("server_error: status 500")


def test_rooms_of_several_sources_are_listed_with_their_source(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "other": {}}, rooms=[{"id": ROOM, "source": name} for name in ("main", "other")])

    found = examine(cli)

    assert only(found, "room", f"main/{ROOM}")
    assert only(found, "room", f"other/{ROOM}")


def test_many_rooms_are_counted(cli: Cli, simulator: Simulator) -> None:
    rooms = [f"room-{number:02}" for number in range(30)]
    cli.configure(rooms=[{"id": ROOM, "enabled": False}, *rooms])
    cli.take_up()
    for number in range(23):
        cli("poll", rooms[number], "--json")
    change(cli.database_url, "UPDATE rooms SET failures = 9, last_failure = 'reset' WHERE upstream_id = 'room-00'")
    polls = len(simulator.polls())

    rooms_found = [one for one in examine(cli, code=1) if one["check"] == "room"]

    assert [(one["subject"], one["state"]) for one in rooms_found] == [
        ("1 room", "fail"),
        ("22 rooms", "warn"),
        ("7 rooms", "warn"),
        ("1 room", "ok"),
    ]
    assert rooms_found[0]["detail"] == "cannot be polled: room-00"
    assert rooms_found[1]["detail"].endswith("room-01, room-02, room-03, room-04, room-05 and 17 more")
    assert rooms_found[3]["detail"] == "disabled"
    assert len(simulator.polls()) == polls
