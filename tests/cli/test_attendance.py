"""`bridge attendance`, `audit` and `privacy` as a person uses them: files, exit codes, a real upstream."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.conftest import Cli
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator

ROOM = "abc-defg-hij"


@pytest.fixture
def met(cli: Cli, simulator: Simulator) -> Cli:
    """Anna was seen from join to leave, quick never."""
    cli("rooms", "add", ROOM)
    simulator.join(ROOM, "anna", metadata={"displayName": "=Anna", "email": "anna@example.com"})
    cli("poll", ROOM)
    simulator.join(ROOM, "quick")
    simulator.leave(ROOM, "quick")
    simulator.end(ROOM)
    cli("poll", ROOM)
    return cli


def exported(cli: Cli, *options: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(cli("attendance", "export", *options).out, newline="")))


def test_reconciling_asks_the_real_record_and_a_second_run_changes_nothing(met: Cli, simulator: Simulator) -> None:
    truth = {visit.peer_id: (visit.joined_at, visit.left_at) for visit in simulator.visits(ROOM)}
    before = exported(met, "--view", "visit")
    assert [row["left_at_source"] for row in before] == ["observed"]
    assert "1 corrected, 1 added" in met("attendance", "reconcile", "--dry-run").out
    assert exported(met, "--view", "visit") == before

    assert f"{ROOM}" in met("attendance", "reconcile").out

    rows = met("attendance", "export", "--view", "visit", "--format", "json").json()
    assert {row["peer_id"]: row["duration_seconds"] for row in rows} == {
        peer_id: ((left or 0) - joined) / 1000 for peer_id, (joined, left) in truth.items()
    }
    assert {row["left_at_source"] for row in rows} == {"reconciled"}
    assert "nothing changed" in met("attendance", "reconcile", "--since", "1h").out
    assert [event["type"] for event in met.events("--type", "session.reconciled")] == ["session.reconciled"]
    assert met("audit", "verify", "--json").json()["ok"] is True


def test_a_record_that_is_not_there_is_exit_1_with_its_name(met: Cli) -> None:
    met.configure(upstream="http://127.0.0.1:9")
    done = met("attendance", "reconcile", code=1)
    assert "failed (" in done.out
    met.configure(sources={"other": {}})
    assert "failed (source 'main' is not configured)" in met("attendance", "reconcile", code=1).out


def test_show_draws_and_export_writes_a_file(met: Cli) -> None:
    shown = met("attendance", "show").out
    assert ROOM in shown
    assert "=Anna" in shown
    met("attendance", "export", "--bom", "--out", str(met.directory / "a.csv"))
    raw = (met.directory / "a.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfroom_id,")
    assert b",'=Anna," in raw
    roster = met.directory / "roster.csv"
    roster.write_text("display_name,person_key\nZed,zed\nAnna,anna@example.com\n")
    rows = exported(met, "--roster", str(roster))
    assert [(row["person_key"], row["display_name"]) for row in rows] == [
        ("anna@example.com", "'=Anna"),
        ("zed", "Zed"),
    ]
    rows = exported(met, "--roster", str(roster), "--person", "zed", "--view", "total")
    assert [(row["person_key"], row["visits"]) for row in rows] == [("zed", "0")]


@pytest.mark.parametrize(
    "options",
    [
        ["--tz", "Mars/Base"],
        ["--window", "2026-01-01"],
        ["--window", "2026-01-02/2026-01-01"],
        ["--min-percent", "101"],
        ["--min-percent", "x"],
        ["--min-percent", "50", "--view", "visit"],
        ["--view", "people"],
        ["--format", "xlsx"],
        ["--since", "soon"],
        ["--roster", "missing.txt"],
        ["--out", "missing/file.csv"],
    ],
)
def test_wrong_options_are_exit_2(cli: Cli, options: list[str]) -> None:
    cli.take_up()
    assert options[0] in cli.refuses("attendance", "export", *options, code=2)


def test_checkpoints_and_tampering(met: Cli) -> None:
    file = met.directory / "kept.jsonl"
    met("audit", "checkpoint", "--out", str(file))
    head = met("audit", "head", "--json").json()
    assert [room["room_id"] for room in head["rooms"]] == [None, ROOM]
    checkpoint = json.loads(file.read_text())
    assert (checkpoint["events"], len(checkpoint["rooms"])) == (head["events"] - 1, 1)
    met("audit", "verify", "--against", str(file))
    with file.open("a") as kept:
        kept.write(met("audit", "head", "--json").out)
    met("audit", "verify", "--against", str(file))
    database = met.database()
    database.write_now(lambda connection: connection.exec_driver_sql("DELETE FROM events WHERE sequence = 2"))
    database.close()
    done = met("audit", "verify", "--against", str(file), code=3)
    assert done.out.startswith(f"missing  {ROOM} #2")
    assert met("audit", "verify", "--json", code=3).json()["problems"][0]["problem"] == "missing"
    file.write_text("{}")
    assert "line 1" in met.refuses("audit", "verify", "--against", str(file), code=2)


def test_a_person_is_exported_and_erased(met: Cli, simulator: Simulator) -> None:
    key = "anna@example.com"
    copy = met("privacy", "export", "--person", key).json()
    assert (len(copy["visits"]), len(copy["events"])) == (1, 2)
    assert (
        met("privacy", "erase", "--person", key, "--dry-run").out == "would erase 1 visit and the bodies of 2 events\n"
    )
    assert "--yes" in met.refuses("privacy", "erase", "--person", key, code=2)
    assert "--person" in met.refuses("privacy", "erase", "--yes", code=2)
    met("privacy", "erase", "--person", key, "--yes")
    assert met("privacy", "erase", "--person", key, "--yes").out.startswith("erased 0 visits")
    assert met("audit", "verify", "--json").json()["erased"] == 2
    shown = [met("attendance", "show").out, met("events", "list", "--json").out, met("rooms", "list", "--json").out]
    assert not any(secret in text for text in shown for secret in (key, "=Anna", '"anna"'))
    assert "erased" in met("attendance", "reconcile").out, "the record does not bring them back"
    simulator.join(ROOM, "bert")
    met("poll", ROOM)
    assert "now" in met.refuses("privacy", "erase", "--peer", "bert", "--yes", code=1)
    assert met("privacy", "prune").out == "deleted 0 events, 0 visits, 0 sessions, 0 attempts\n"


def test_retention_is_applied_to_events_and_attempts(cli: Cli, simulator: Simulator, receiver: Receiver) -> None:
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm", events=["peer.joined"])])
    cli.take_up()
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    cli.deliver()
    simulator.end(ROOM)
    cli("poll", ROOM)
    age(cli, "UPDATE attempts SET started_at = '2020-01-01 00:00:00'")
    assert cli("privacy", "prune", "--dry-run").out == "would delete 0 events, 0 visits, 0 sessions, 1 attempt\n"
    assert len(cli("deliveries", "list", "--json").json()) == 1
    assert cli("privacy", "prune").out == "deleted 0 events, 0 visits, 0 sessions, 1 attempt\n"
    assert cli("deliveries", "list", "--json").json() == []
    age(cli, "UPDATE events SET recorded_at = '2020-01-01 00:00:00'")
    assert cli("privacy", "prune").out == "deleted 4 events, 1 visit, 1 session, 0 attempts\n"
    assert cli("audit", "verify", "--json").json()["pruned"] == 4


def age(cli: Cli, statement: str) -> None:
    database = cli.database()
    database.write_now(lambda connection: connection.exec_driver_sql(statement))
    database.close()


def test_the_service_reconciles_by_itself(cli: Cli, simulator: Simulator) -> None:
    cli.configure(rooms=[ROOM], attendance={"reconcile_after": "100ms"})
    with BridgeProcess(cli.config) as bridge:
        bridge.wait_ready()
        simulator.join(ROOM, "anna")
        simulator.wait_for_polls(2, ROOM)
        simulator.end(ROOM)
        bridge.wait_for_output('"outcome": "reconciled"')
        bridge.stop()
    (visit,) = simulator.visits(ROOM)
    (row,) = cli("attendance", "export", "--format", "json").json()
    assert row["times_source"] == "reconciled"
    assert row["total_seconds"] == ((visit.left_at or 0) - visit.joined_at) / 1000
