"""LISTEN through a pooler does not work: that is noticed, and other connections are found again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.db.notifications import EVENTS_CHANNEL, Listener
from tests.harness.servers import PGBOUNCER, pgbouncer
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import PATIENCE


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_a_pooler_in_between_is_noticed(postgresql_store: StoreDriver, tmp_path: Path) -> None:
    with pgbouncer(postgresql_store.database.url, tmp_path) as pooled, capture_logs() as logs:
        listener = Listener(pooled, {EVENTS_CHANNEL: lambda: None})
        async with asyncio.timeout(PATIENCE):
            await listener.run()

    assert [one["event"] for one in logs] == ["listen.impossible"]
    assert not listener.is_listening


async def test_sqlite_has_nothing_to_listen_to(sqlite_store: StoreDriver) -> None:
    async with asyncio.timeout(PATIENCE):
        await Listener(sqlite_store.database.url, {EVENTS_CHANNEL: lambda: None}).run()
