"""Attendance from a database: selections, merged sessions, totals and files."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bridge.attendance.export import ExportFormat, csv_cell, export_attendance
from bridge.attendance.query import Selection, list_attendance
from bridge.errors import NotFoundError
from bridge.rules.attendance import COLUMNS, Report, View
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import StoreDriver

PLAIN = Report(zone=ZoneInfo("UTC"))


def person(peer_id: str, joined: float | None, key: str) -> Any:  # noqa: ANN401 - a Peer
    return peer(peer_id, joined, {"email": key, "name": f"={key}"})


@pytest.fixture
def met(store: StoreDriver) -> StoreDriver:
    """Two rooms: three sessions of one, with a short and a long pause, and one under way in the other."""
    store.track("a", "b", name="Room")
    ann, bo = person("p1", 5, "ann"), person("p2", 20, "bo")
    store.poll(0, a=seen(), b=seen())
    store.poll(10, a=seen(ann), b=seen())
    store.poll(30, a=seen(ann, bo), b=seen(person("p9", 12, "ann")))
    store.poll(60, a=seen(), b=seen(person("p9", 12, "ann")))
    store.poll(80, a=seen(person("p3", 65, "bo")), b=seen(person("p9", 12, "ann")))
    store.poll(100, a=seen(), b=seen(person("p9", 12, "ann")))
    store.poll(300, a=seen(person("p4", 290, "ann")), b=seen(person("p9", 12, "ann")))
    store.poll(310, a=seen(), b=seen(person("p9", 12, "ann")))
    return store


def rows(
    store: StoreDriver,
    view: View,
    report: Report = PLAIN,
    gap: float = 0,
    **selection: Any,  # noqa: ANN401 - of Selection
) -> list[dict[str, Any]]:
    return store.database.read_now(
        list_attendance, Selection(**selection), view, report, merge_gap=timedelta(seconds=gap)
    )


def test_sessions_come_by_start_and_people_by_join(met: StoreDriver) -> None:
    found = [(row["room_id"], row["person_key"], row["total_seconds"]) for row in rows(met, View.PERSON)]
    assert found == [
        ("a", "ann", 55.0),
        ("a", "bo", 40.0),
        ("b", "ann", 298.0),
        ("a", "bo", 35.0),
        ("a", "ann", 20.0),
    ]
    visits = rows(met, View.VISIT)
    assert tuple(visits[0]) == COLUMNS[View.VISIT]
    assert [row["peer_id"] for row in visits] == ["p1", "p2", "p9", "p3", "p4"]
    assert (visits[2]["left_at"], visits[2]["still_present"], visits[2]["last_seen_at"][17:19]) == (None, True, "10")


def test_totals_are_the_union_over_all_sessions(met: StoreDriver) -> None:
    """Ann was in both rooms at once, which counts once."""
    found = rows(met, View.TOTAL, Report(zone=ZoneInfo("UTC"), roster={"zed": None}))
    assert [(row["person_key"], row["sessions"], row["visits"], row["total_seconds"]) for row in found] == [
        ("ann", 3, 3, 305.0),
        ("bo", 2, 2, 75.0),
        ("zed", 0, 0, 0.0),
    ]
    assert tuple(found[0]) == COLUMNS[View.TOTAL]


@pytest.mark.parametrize(
    "report",
    [
        Report(zone=ZoneInfo("UTC"), min_percent=60),
        Report(zone=ZoneInfo("UTC"), window=(at(64), at(400))),
        Report(zone=ZoneInfo("UTC"), window=(at(64), at(400)), min_percent=1),
    ],
)
def test_totals_come_by_the_first_join_that_counts(met: StoreDriver, report: Report) -> None:
    """Ann came first, but not in a session that counts."""
    found = rows(met, View.TOTAL, report, gap=5, room="a")
    assert [row["person_key"] for row in found] == ["bo", "ann"]
    assert found == sorted(found, key=lambda row: row["first_joined_at"])


def test_a_roster_is_whole_in_totals_whatever_was_left_out(met: StoreDriver) -> None:
    least = Report(zone=ZoneInfo("UTC"), min_percent=90, roster={"ann": None, "bo": None, "zed": "Zed"})
    found = [(row["person_key"], row["sessions"], row["total_seconds"]) for row in rows(met, View.TOTAL, least)]
    assert found == [("ann", 3, 305.0), ("bo", 1, 35.0), ("zed", 0, 0.0)]
    first = {row["person_key"]: row["sessions"] for row in rows(met, View.TOTAL, least, room="a", until=at(65))}
    assert first == {"ann": 1, "bo": 0, "zed": 0}


def test_one_person_of_a_roster_has_a_row_for_each_session(met: StoreDriver) -> None:
    report = Report(zone=ZoneInfo("UTC"), roster={"bo": "Bo B."})
    found = rows(met, View.PERSON, report, person="bo")
    assert [(row["room_id"], row["person_key"], row["total_seconds"]) for row in found] == [
        ("a", "bo", 40.0),
        ("b", "bo", 0.0),
        ("a", "bo", 35.0),
        ("a", "bo", 0.0),
    ]


@pytest.mark.parametrize(
    ("selection", "keys"),
    [
        ({"room": "b"}, ["p9"]),
        ({"person": "bo"}, ["p2", "p3"]),
        ({"since": at(100)}, ["p9", "p4"]),
        ({"until": at(65)}, ["p1", "p2", "p9"]),
        ({"since": at(60), "until": at(290)}, ["p9", "p3"]),
    ],
)
def test_selections(met: StoreDriver, selection: dict[str, Any], keys: list[str]) -> None:
    assert [row["peer_id"] for row in rows(met, View.VISIT, **selection)] == keys
    by_person = {row["person_key"] for row in rows(met, View.TOTAL, **selection)}
    assert by_person == {row["person_key"] for row in rows(met, View.VISIT, **selection)}


def test_one_session_and_what_does_not_exist(met: StoreDriver) -> None:
    (first, *_) = rows(met, View.VISIT)
    assert len(rows(met, View.VISIT, session=first["session_id"])) == 2
    with pytest.raises(NotFoundError):
        rows(met, View.PERSON, session="ses_x")
    with pytest.raises(NotFoundError):
        rows(met, View.TOTAL, room="x")


def test_sessions_within_the_gap_count_as_one(met: StoreDriver) -> None:
    found = rows(met, View.PERSON, gap=5, room="a")
    assert [(row["person_key"], row["total_seconds"], row["percent_of_session"]) for row in found] == [
        ("ann", 55.0, 57.9),
        ("bo", 75.0, 78.9),
        ("ann", 20.0, 100.0),
    ]
    least = Report(zone=ZoneInfo("UTC"), min_percent=60)
    assert [row["total_seconds"] for row in rows(met, View.TOTAL, least, gap=5, room="a")] == [75.0, 20.0]
    assert [row["sessions"] for row in rows(met, View.TOTAL, gap=1000, room="a")] == [1, 1]


def test_every_format_has_the_same_rows(met: StoreDriver) -> None:
    written = {}
    for form in ExportFormat:
        file = io.StringIO(newline="")
        met.database.read_now(
            export_attendance, Selection(), View.PERSON, PLAIN, file,
            form=form, bom=form is ExportFormat.CSV, merge_gap=timedelta(0), on_visits=lambda _: None,
        )  # fmt: skip
        written[form] = file.getvalue()
    expected = rows(met, View.PERSON)

    assert json.loads(written[ExportFormat.JSON]) == expected
    assert [json.loads(line) for line in written[ExportFormat.JSONL].splitlines()] == expected
    text = written[ExportFormat.CSV]
    assert text.startswith("\ufeffroom_id,")
    assert text.count("\r\n") == text.count("\n") == len(expected) + 1
    read = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    assert [float(row["total_seconds"]) for row in read] == [row["total_seconds"] for row in expected]
    assert {row["display_name"] for row in read} == {"'=ann", "'=bo"}
    assert [row["still_present"] for row in read] == ["false", "false", "true", "false", "false"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert (csv_cell(text), csv_cell(f"x{text}"), csv_cell(-1.5)) == (f"'{text}", f"x{text}", -1.5)
