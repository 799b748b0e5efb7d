"""`/readyz`: 200 while the service does its work, 503 with the reasons otherwise."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from bridge.rules.presence import FailureKind
from tests.harness.builders import peer, seen
from tests.harness.store_driver import failed
from tests.web.conftest import Web


async def readiness(web: Web, *, at: float) -> tuple[int, dict[str, Any]]:
    """Status and document at that second."""
    web.now = at
    async with web.client() as client:
        response = await client.get("/readyz")
    return response.status_code, response.json()


async def test_it_is_ready_until_polls_are_late(web: Web) -> None:
    web.store.track("a")

    assert await readiness(web, at=60) == (200, {"ready": True, "reasons": []})
    status, found = await readiness(web, at=61)
    assert (status, found["ready"], len(found["reasons"])) == (503, False, 1)
    assert found["reasons"][0].startswith("polls are late: the longest waiting has been due for 61 s")


async def test_it_is_ready_until_deliveries_are_late(web: Web) -> None:
    web.store.subscribe("crm")
    web.store.track("a")
    web.store.poll(0, a=seen())
    web.store.poll(10, a=seen(peer("ann", 10)))
    web.store.poll(60, a=seen(peer("ann", 10)))

    assert await readiness(web, at=69) == (200, {"ready": True, "reasons": []})
    status, found = await readiness(web, at=71)
    assert (status, found["ready"], len(found["reasons"])) == (503, False, 1)
    assert found["reasons"][0].startswith("deliveries are late: the longest waiting has been due for 61 s")
    web.store.deliver(71)
    assert (await readiness(web, at=72))[0] == 200


async def test_it_is_not_ready_while_a_source_is_not(web: Web) -> None:
    web.store.track("a")
    web.store.poll(0, a=failed(FailureKind.UNAUTHORIZED))

    assert await readiness(web, at=1) == (503, {"ready": False, "reasons": ["source main is unauthorized"]})


async def test_it_is_not_ready_with_another_schema(web: Web) -> None:
    def forget(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))

    web.store.write(forget)

    status, found = await readiness(web, at=1)
    assert (status, found["ready"]) == (503, False)
    assert "run `bridge migrate`" in found["reasons"][0]
