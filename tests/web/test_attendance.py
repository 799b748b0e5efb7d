"""Attendance over HTTP: the rows of the CLI's export, and exact times from the source's record on demand."""

from __future__ import annotations

import io
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel

from bridge.attendance.export import ExportFormat, write_rows
from bridge.attendance.query import Selection, list_attendance
from bridge.rules.attendance import COLUMNS, Report, Row, View
from bridge.web.attendance import IN_MEMORY
from bridge.web.attendance_rows import PersonRow, TotalRow, VisitRow
from tests.harness.builders import at, peer, seen
from tests.harness.simulator import Simulator
from tests.web.conftest import Web

PATH = "/api/v1/attendance"
UTC = Report(zone=ZoneInfo("UTC"))


def rows(web: Web, view: View, report: Report = UTC, **selection: str) -> list[Row]:
    chosen = Selection(**selection)  # type: ignore[arg-type]
    return web.store.database.read_now(
        list_attendance, chosen, view, report, merge_gap=web.settings.attendance.merge_gap
    )


def csv_of(found: list[Row], view: View) -> str:
    file = io.StringIO(newline="")
    write_rows(found, COLUMNS[view], ExportFormat.CSV, file)
    return file.getvalue()


@pytest.fixture
def met(web: Web) -> Web:
    """Two sessions of a room: Ann and Bo, then Bo alone; and one of another room that is under way."""
    web.store.track("a", "b", name="Müller, Ärzte")
    web.store.poll(0, a=seen())
    web.store.poll(10, a=seen(peer("=ann", 2), peer("bo", 5)), b=seen(peer("cy", 4)))
    web.store.poll(20, a=seen(peer("bo", 5)))
    web.store.poll(30, a=seen())
    web.store.poll(40, a=seen(peer("bo", 38)), b=seen(peer("cy", 4)))
    web.store.poll(50, a=seen())
    web.now = 60
    return web


@pytest.mark.parametrize("view", View)
async def test_the_rows_are_those_of_the_export(met: Web, view: View) -> None:
    session = next(row["session_id"] for row in rows(met, View.PERSON, room="a"))
    async with met.client(met.token("read")) as client:
        everything = await client.get(PATH, params={"view": view})
        of_room = await client.get(PATH, params={"view": view, "room": "a", "person": "bo"})
        of_session = await client.get(f"/api/v1/sessions/{session}/attendance", params={"view": view})
        table = await client.get(
            f"/api/v1/sessions/{session}/attendance",
            params={"view": view, "format": "csv", "tz": "Europe/Berlin"},
        )

    assert everything.json() == {"items": rows(met, view), "next": None}
    assert of_room.json()["items"] == rows(met, view, room="a", person="bo")
    assert of_session.json()["items"] == rows(met, view, session=session)
    berlin = rows(met, view, Report(zone=ZoneInfo("Europe/Berlin")), session=session)
    assert table.content.decode() == csv_of(berlin, view)
    assert "'=ann" in table.text
    assert table.headers["content-type"].startswith("text/csv")
    assert table.headers["content-disposition"] == f'attachment; filename="attendance-{session}.csv"'


async def test_window_period_and_percentage_select(met: Web) -> None:
    window = (at(5), at(15))
    async with met.client(met.token("read")) as client:
        cut = await client.get(
            PATH, params={"room": "a", "window": f"{window[0].isoformat()}/{window[1].isoformat()}", "min_percent": 90}
        )
        later = await client.get(PATH, params={"room": "a", "since": at(35).isoformat(), "view": "total"})
        unknown = [(await client.get(path)).status_code for path in (f"{PATH}?room=x", "/api/v1/sessions/x/attendance")]

    expected = rows(met, View.PERSON, Report(zone=ZoneInfo("UTC"), window=window, min_percent=90), room="a")
    assert cut.json()["items"] == expected
    assert [row["person_key"] for row in expected] == ["=ann", "bo"]
    assert [(row["person_key"], row["total_seconds"]) for row in later.json()["items"]] == [("bo", 12.0)]
    assert unknown == [404, 404]


@pytest.mark.parametrize(
    "query",
    [
        {"tz": "Mars/Base"},
        {"window": "2026-01-01"},
        {"window": "2026-01-02/2026-01-01"},
        {"window": "soon/later"},
        {"min_percent": "101"},
        {"min_percent": "nan"},
        {"min_percent": "5", "view": "visit"},
        {"view": "people"},
        {"format": "xlsx"},
        {"since": "soon"},
    ],
)
async def test_a_wrong_value_is_422_and_named(web: Web, query: dict[str, str]) -> None:
    async with web.client(web.token("read")) as client:
        response = await client.get(PATH, params=query)

    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["query", next(iter(query))])


async def test_an_export_too_large_for_memory_is_whole(web: Web) -> None:
    web.store.record_joins(0, "a", people=4000)
    async with web.client(web.token("read")) as client:
        exported = await client.get(PATH, params={"view": "visit", "format": "csv"})

    assert len(exported.content) > IN_MEMORY
    assert exported.text == csv_of(rows(web, View.VISIT), View.VISIT)


def test_the_described_rows_have_the_columns_of_their_view() -> None:
    described: dict[View, type[BaseModel]] = {View.VISIT: VisitRow, View.PERSON: PersonRow, View.TOTAL: TotalRow}
    assert {view: tuple(row.model_fields) for view, row in described.items()} == COLUMNS


async def test_a_session_is_reconciled_at_once(web: Web, simulator: Simulator) -> None:
    web.configure(upstream=simulator.url)
    seconds = 0.0
    simulator.at_once(lambda simulation: setattr(simulation, "now", lambda: int(at(seconds).timestamp() * 1000)))
    web.store.track("a")
    simulator.join("a", "ann")
    web.store.poll(10, a=seen(peer("ann", 0)))
    (session,) = {row["session_id"] for row in rows(web, View.PERSON)}
    path = f"/api/v1/sessions/{session}/reconcile"

    async with web.client(web.token("write")) as client:
        under_way = await client.post(path)
        seconds = 14
        simulator.end("a")
        web.store.poll(20, a=seen())
        web.now = 30
        corrected, again, unknown = [await client.post(each) for each in (path, path, "/api/v1/sessions/x/reconcile")]
        web.configure(sources={"other": {}}, upstream=simulator.url)
        without_source = await client.post(path)
        web.configure(sources={"main": {"kind": "livekit", "api_secret": "s" * 32}}, upstream=simulator.url)
        without_record = await client.post(path)

    facts = {"session_id": session, "source": "main", "room_id": "a", "outcome": "reconciled", "notes": ["1 corrected"]}
    assert corrected.json() == {**facts, "changed": True}
    assert (again.json()["outcome"], again.json()["changed"]) == ("reconciled", False)
    assert [row["total_seconds"] for row in rows(web, View.PERSON)] == [14.0]
    refused = (under_way, unknown, without_source, without_record)
    assert [one.status_code for one in refused] == [409, 404, 409, 409]
    assert "under way" in under_way.json()["detail"]
    assert "not configured" in without_source.json()["detail"]
    assert "keeps no record" in without_record.json()["detail"]
