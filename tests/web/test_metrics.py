"""`GET /metrics`: who may read it, its formats, and gauges of the rows in the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from sqlalchemy import Connection

from bridge.admin.gauges import read_gauges
from bridge.admin.rooms import RoomState
from bridge.db.engine import Database
from bridge.db.event_log import append_system_events
from bridge.db.tables import endpoints, sources
from bridge.delivery.endpoints import remove_endpoint
from bridge.events.bodies import draft_endpoint
from bridge.metrics import HOOKS, EndpointGauges, Metrics, PollOutcome, SourceGauges
from bridge.polling.rooms import ensure_sources
from bridge.web.app import create_app
from bridge.web.scraper import Scraper
from tests.harness.builders import at, seen
from tests.harness.store_driver import GOOD, REJECTED, RETRYABLE, StoreDriver
from tests.web.conftest import Web

OTHER = sources.c.name == "other"


async def test_without_tokens_it_is_open_and_with_one_it_needs_the_scope(web: Web) -> None:
    async with web.client(address="192.0.2.1", host="anything") as client:
        assert (await client.get("/metrics")).status_code == 200

    given = {scope: web.token(scope) for scope in ("metrics", "read", "admin")}
    found = {}
    for scope, token in {"none": None, **given}.items():
        async with web.client(token) as client:
            found[scope] = (await client.get("/metrics")).status_code
    assert found == {"none": 401, "metrics": 200, "read": 403, "admin": 200}


async def test_the_format_is_what_the_scraper_asks_for(web: Web) -> None:
    async with web.client() as client:
        plain = await client.get("/metrics")
        openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE bridge_pokes_total counter\n" in plain.text
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(openmetrics.text)}  # type: ignore[no-untyped-call]
    assert {sample.labels["outcome"] for sample in families["bridge_polls"].samples} == set()
    assert "_created" not in plain.text + openmetrics.text


def test_gauges_count_what_there_is(store: StoreDriver) -> None:
    store.write(ensure_sources, ["main", "other"])
    store.write(lambda connection: connection.execute(sources.update().values(condition="failing").where(OTHER)))
    store.track("a", "b", "c")
    keys = {name: store.subscribe(name, events=("peer.*",)) for name in ("crm", "down", "zap-1", "zap-2")}
    store.poll(10, a=seen("ann", "bob"), b=seen())
    results = {"crm": REJECTED, "down": RETRYABLE}
    for seconds in (20, 25, 325):
        store.deliver(seconds, lambda cursor, _: results.get(cursor.target.name, GOOD))
    for name, values in {
        "down": {"circuit": "open"},
        "zap-1": {"origin": "hook"},
        "zap-2": {"origin": "hook", "state": "disabled"},
    }.items():
        change(store, keys[name], **values)

    found = store.database.read_now(read_gauges, at(400))
    assert found.sources == [
        SourceGauges(source="main", is_up=True, rooms={"unknown": 1, "empty": 1, "occupied": 1}, peers=2),
        SourceGauges(source="other", is_up=False, rooms=dict.fromkeys(RoomState, 0), peers=0),
    ]
    assert found.endpoints == [
        gauges("crm", is_up=True, owed_events=1, oldest_owed=390, dead_letters=1),
        gauges("down", is_up=False, owed_events=2, oldest_owed=390),
        gauges(HOOKS, is_up=False),
    ]


def change(store: StoreDriver, endpoint: int, **values: object) -> None:
    store.write(
        lambda connection: connection.execute(endpoints.update().where(endpoints.c.id == endpoint).values(values))
    )


def gauges(
    name: str, *, is_up: bool, owed_events: int = 0, oldest_owed: float = 0, dead_letters: int = 0
) -> EndpointGauges:
    return EndpointGauges(
        endpoint=name,
        is_up=is_up,
        owed_events=owed_events,
        oldest_owed=timedelta(seconds=oldest_owed),
        dead_letters=dead_letters,
    )


async def test_the_series_of_an_endpoint_end_with_it(web: Web) -> None:
    metrics, database = Metrics(), web.store.database
    for name in ("crm", "shop"):
        web.store.subscribe(name)
        metrics.of_endpoint(name).count_attempt("delivered", timedelta(seconds=1))
    await Scraper().scrape(metrics, database, lambda: at(0), "")
    assert {"crm", "shop"} == endpoints_in(metrics)

    web.store.write(remove_endpoint, "crm")
    await Scraper().scrape(metrics, database, lambda: at(0), "")
    assert {"shop"} == endpoints_in(metrics)


def endpoints_in(metrics: Metrics) -> set[str]:
    return {
        sample.labels["endpoint"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if "endpoint" in sample.labels
    }


async def test_a_database_that_fails_takes_only_its_gauges_along(web: Web, tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.of_source("main").count_poll(PollOutcome.COMPLETE)
    web.store.write(ensure_sources, ["main"])
    await Scraper().scrape(metrics, web.store.database, lambda: at(0), "")
    assert metrics.registry.get_sample_value("bridge_source_up", {"source": "main"}) == 1

    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    await Scraper().scrape(metrics, empty, lambda: at(0), "")
    empty.close()
    assert metrics.registry.get_sample_value("bridge_source_up", {"source": "main"}) is None
    counted = {"source": "main", "outcome": "complete"}
    assert metrics.registry.get_sample_value("bridge_polls_total", counted) == 1


async def test_it_stays_open_while_the_database_is_away_if_there_was_no_token(web: Web, tmp_path: Path) -> None:
    away = Database(f"sqlite:///{tmp_path / 'nowhere' / 'bridge.db'}")
    gone = replace(web.state, database=away)
    statuses = []
    for state in (gone, web.state, gone):
        web.app = create_app(state)
        async with web.client() as client:
            response = await client.get("/metrics")
        statuses.append(response.status_code)
    away.close()

    assert statuses == [503, 200, 200]
    assert "bridge_build_info" in response.text


def test_events_count_when_they_are_committed(migrated_url: str) -> None:
    metrics = Metrics()
    database = Database(migrated_url)
    database.on_events(metrics.count_events)
    store = StoreDriver(database=database)
    store.track("a")
    with pytest.raises(ZeroDivisionError):
        store.write(append_and_fail, store)
    store.poll(10, a=seen("ann", "bob"))
    store.database.close()
    counts = {
        sample.labels["type"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if family.name == "bridge_events"
    }
    assert {kind: count for kind, count in counts.items() if count} == {"room.occupied": 1, "peer.joined": 2}


def append_and_fail(connection: Connection, store: StoreDriver) -> float:
    notice = draft_endpoint(recovered=True, endpoint="crm", reason=None, since=None, at=at(0))
    append_system_events(connection, [notice], at(0), store.new_id)
    return 1 / 0
