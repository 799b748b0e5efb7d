"""Rooms over HTTP. The other topics are tested in the same way: a store, a token, a call of the app."""

from __future__ import annotations

from bridge.admin.listing import Page, document
from bridge.admin.rooms import list_rooms
from tests.harness.builders import seen
from tests.web.conftest import Web


async def test_a_list_has_the_items_of_the_cli_and_ends_with_null(web: Web) -> None:
    web.store.track("a", "b", "c")
    web.store.poll(0, b=seen("ann"))

    async with web.client(web.token("read")) as client:
        first = (await client.get("/api/v1/rooms", params={"limit": 2})).json()
        second = (await client.get("/api/v1/rooms", params={"limit": 2, "after": first["next"]})).json()

    rooms = web.store.database.read_now(list_rooms, Page(limit=10)).items
    assert [*first["items"], *second["items"]] == [document(room) for room in rooms]
    assert (first["items"][1]["state"], second["next"]) == ("occupied", None)
