"""docs/attendance.md: its example is made by the code, its tables name what there is, its script checks a record."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bridge.attendance.query import Selection
from bridge.attendance.verify import ProblemKind
from bridge.cli.attendance_table import print_attendance
from bridge.config import Settings
from bridge.rules.attendance import Report, View
from bridge.rules.presence import Json, Peer
from bridge.rules.reconcile import Outcome
from tests.docs import pages
from tests.harness.builders import peer, seen
from tests.harness.config import write_config
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Delivery, Receiver
from tests.harness.simulator import Simulator
from tests.harness.store_driver import StoreDriver

PAGE = pages.ROOT / "docs/attendance.md"


def ann(peer_id: str, joined: float) -> Peer:
    metadata: Json = {"displayName": "Ann", "email": "ann@example.com"}
    return peer(peer_id, joined, metadata)


def meeting(store: StoreDriver) -> str:
    """The example of the page."""
    bo = peer("b", 8, {"displayName": "Bo"})
    store.track("abc-defg-hij", name="Weekly stand-up")
    present = [
        [bo, *([ann("a1", 4)] if 10 <= second <= 60 else []), *([ann("a2", 33)] if 40 <= second < 90 else []),
         *([ann("a1", 124)] if second >= 130 else [])]
        for second in range(10, 170, 10)
    ]  # fmt: skip
    for turn, peers in enumerate([[], *present, []]):
        store.poll(turn * 10, **{"abc-defg-hij": seen(*peers)})
    out = io.StringIO()
    with redirect_stdout(out):
        print_attendance(store.database, Selection(), View.PERSON, Report(zone=ZoneInfo("Europe/Berlin")), timedelta(0))
    return out.getvalue()


def test_the_example_is_what_the_code_shows(sqlite_store: StoreDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    shown = [line.rstrip() for line in meeting(sqlite_store).splitlines()]
    assert pages.block(PAGE, "example: attendance").splitlines() == shown


def test_every_outcome_and_every_problem_is_explained() -> None:
    outcomes = [pages.codes(row["outcome"])[0] for row in pages.table(PAGE, "Exact times afterwards", "outcome")]
    assert sorted(outcomes) == sorted(Outcome)
    problems = [pages.codes(row["problem"])[0] for row in pages.table(PAGE, "What the chain proves", "problem")]
    assert sorted(problems) == sorted(ProblemKind)
    assert Settings().attendance.reconcile_after == timedelta(minutes=2)


def kept(deliveries: Sequence[Delivery]) -> list[str]:
    """The lines that the page asks a receiver to keep."""
    return [
        json.dumps({
            "chain": one.headers["bridge-chain"],
            "proof": one.headers["bridge-chain-proof"],
            "body": one.body.decode(),
        })
        for one in deliveries
    ]  # fmt: skip


def witness(directory: Path, lines: Sequence[str]) -> subprocess.CompletedProcess[str]:
    (directory / "witness.py").write_text(pages.block(PAGE, "witness"), encoding="utf-8")
    (directory / "kept.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "witness.py", "kept.jsonl"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)


def test_a_receiver_checks_its_record_offline_and_is_a_witness(
    tmp_path: Path, simulator: Simulator, receiver: Receiver, migrated_url: str
) -> None:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=migrated_url,
        upstream=simulator.url,
        rooms=["r"],
        endpoints=[receiver.endpoint(events=["*"])],
    )
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        simulator.join("r", "anna", metadata={"name": "Ännä ☃"})
        receiver.wait_for_count(2)
        simulator.leave("r", "anna")
        receiver.wait_for_count(4)
        bridge.stop()
    lines = kept(receiver.accepted)

    done = witness(tmp_path, lines)

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(lines)
    (tmp_path / "receipts.jsonl").write_text(done.stdout, encoding="utf-8")
    verify = [sys.executable, "-m", "bridge", "audit", "verify", "--against", "receipts.jsonl", "--json"]
    found = subprocess.run(verify, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert (found.returncode, json.loads(found.stdout)["problems"]) == (0, [])

    forged = [*lines[:-1], lines[-1].replace("anna", "eve").replace('\\"peer_count\\":0', '\\"peer_count\\":1')]
    assert "not the one that was hashed" in witness(tmp_path, forged).stderr
    other = json.loads(lines[-1]) | {"proof": f"{'00' * 32}.{json.loads(lines[-1])['proof'].split('.')[1]}"}
    assert witness(tmp_path, [*lines[:-1], json.dumps(other)]).returncode == 1
