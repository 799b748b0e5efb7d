"""The tables and examples of docs/events.md agree with the events that the code produces."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pytest

from bridge.events import fields
from bridge.events.bodies import RoomName, draft, draft_endpoint, draft_snapshots, encode
from bridge.events.fields import FIELDS as FIELD
from bridge.events.fields import Field
from bridge.events.formats import Format, render
from bridge.events.types import DEFAULT_TYPES, EventType
from bridge.rules.presence import (
    Json,
    Peer,
    Presence,
    PresencePolicy,
    Snapshot,
    diff,
)
from bridge.web.asyncapi import describe_events
from tests.docs import examples, pages

PLAIN = {"text", "time", "seconds", "integer", "boolean", "list", "object", "null"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
BODY, FIELDS, PEERS, VISITS = "The body", "The fields", "Each of `peers`", "Each of `visits`"

Event = dict[str, Any]


def kind_of(key: str, value: Json) -> str:
    """The page's word for the type of a value; Python's own name if the page has none."""
    if isinstance(value, str):
        return "time" if TIME.fullmatch(value) else "text"
    if key.endswith("_seconds") and type(value) in (int, float):
        return "seconds"
    names = {"NoneType": "null", "bool": "boolean", "int": "integer", "dict": "object"}
    return names.get(type(value).__name__, type(value).__name__)


def unusual_events() -> Iterator[Event]:
    """Events that the meeting of the examples does not have: rooms without a name, an empty room, unknown values."""
    unnamed = RoomName(source="main", room_id="r", room_name=None)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    yield json.loads(encode(draft_snapshots(None, (), now)[0], unnamed, event_id="evt_1", sequence=1))
    unknown = draft_endpoint(recovered=True, endpoint="e", reason=None, since=None, at=now)
    yield json.loads(encode(unknown, examples.OWN, event_id="evt_2", sequence=1))
    presence = Presence()
    oddities: list[Json] = [None, "text", 1.5, ["list"], True]
    for metadata in oddities:
        peer = Peer(peer_id="p", metadata=metadata)
        difference = diff(presence, Snapshot(peers=(peer,)), PresencePolicy(), now, lambda prefix: f"{prefix}_1")
        presence = difference.after
        for change in difference.changes:
            yield json.loads(encode(draft(change, now), unnamed, event_id="evt_3", sequence=1))


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return [*(json.loads(body) for body in examples.bodies()), *unusual_events()]


def found_kinds(objects: Iterable[Event]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for each in objects:
        for key, value in each.items():
            found[key].add(kind_of(key, value))
    return dict(found)


def documented_kinds(title: str) -> dict[str, set[str]]:
    rows = pages.table(pages.EVENTS, title)
    name = next(iter(rows[0]))
    kinds = {pages.codes(row[name])[0]: set(row["type"].split(" or ")) for row in rows}
    assert len(kinds) == len(rows), "a field is described twice"
    assert set().union(*kinds.values()) <= PLAIN | {"JSON"}
    return kinds


def assert_agree(documented: dict[str, set[str]], found: dict[str, set[str]]) -> None:
    assert documented.keys() == found.keys()
    for key, kinds in documented.items():
        assert kinds == {"JSON"} or kinds == found[key], key


def test_every_example_is_what_the_code_produces() -> None:
    written = {block.name: block.text.rstrip("\n") for block in pages.blocks(pages.EVENTS) if block.name}

    assert written == examples.examples(), "run `python -m tests.docs.examples`"


def test_there_is_an_example_of_every_type_and_style_that_is_sent() -> None:
    shown = examples.examples()

    assert {name.removeprefix("example: ") for name in shown if name.startswith("example: ")} == {
        kind.value for kind in EventType
    }
    assert {name.removeprefix("style: ") for name in shown if name.startswith("style: ")} == set(Format) - {"standard"}


def test_every_type_is_listed_with_its_default() -> None:
    rows = {pages.codes(row["type"])[0]: row for row in pages.table(pages.EVENTS, "The types")}

    assert set(rows) == {kind.value for kind in EventType}
    assert {kind for kind, row in rows.items() if row["by default"] == "yes"} == {kind.value for kind in DEFAULT_TYPES}
    assert {kind: row["when"] for kind, row in rows.items()} == {
        kind.value: facts.when for kind, facts in fields.TYPES.items()
    }


def test_the_body_has_the_documented_keys_and_types(events: list[Event]) -> None:
    assert_agree(documented_kinds(BODY), found_kinds(events))


def test_the_data_has_the_documented_fields_and_types(events: list[Event]) -> None:
    assert_agree(documented_kinds(FIELDS), found_kinds(event["data"] for event in events))


def test_a_snapshots_peers_have_the_documented_fields_and_types(events: list[Event]) -> None:
    peers = [peer for event in events for peer in event["data"].get("peers", ())]

    assert_agree(documented_kinds(PEERS), found_kinds(peers))


def test_reconciled_visits_have_the_documented_fields_and_types(events: list[Event]) -> None:
    visits = [visit for event in events for visit in event["data"].get("visits", ())]

    assert_agree(documented_kinds(VISITS), found_kinds(visits))


def test_each_type_has_exactly_the_fields_that_are_documented_for_it(events: list[Event]) -> None:
    globs = {pages.codes(row["field"])[0]: pages.codes(row["in"]) for row in pages.table(pages.EVENTS, FIELDS)}

    for event in events:
        documented = {key for key, types in globs.items() if any(fnmatchcase(event["type"], glob) for glob in types)}
        assert event["data"].keys() == documented, event["type"]


@pytest.mark.parametrize(
    ("title", "described"),
    [(BODY, fields.BODY), (FIELDS, fields.FIELDS), (PEERS, fields.PEER_ITEM), (VISITS, fields.VISIT_ITEM)],
)
def test_each_table_is_that_of_the_code(title: str, described: Mapping[str, Field]) -> None:
    rows = pages.table(pages.EVENTS, title)
    name = next(iter(rows[0]))

    assert {pages.codes(row[name])[0]: (row["type"], row["meaning"]) for row in rows} == {
        key: (_words(field), "as above" if title != FIELDS and field is FIELD.get(key) else field.meaning)
        for key, field in described.items()
    }


def _words(field: Field) -> str:
    return f"{field.kind} or null" if field.null_in else field.kind.value


@pytest.mark.parametrize("name", [name for name, field in FIELD.items() if field.values])
def test_every_value_of_a_field_with_few_values_is_explained(name: str) -> None:
    field = FIELD[name]

    explained = [code for code in pages.codes(field.meaning) if f"`{code}`:" in field.meaning]
    assert sorted(explained) == sorted(str(value) for value in field.values)


def test_the_table_of_styles_has_their_content_types() -> None:
    body = examples.bodies()[0]
    rows = {pages.codes(row["style"])[0]: row for row in pages.table(pages.EVENTS, "Styles")}

    assert {style: pages.codes(row["content type"])[0] for style, row in rows.items()} == {
        style.value: render(style, body).content_type for style in Format
    }


def test_the_table_of_headers_has_those_that_asyncapi_describes() -> None:
    documented = {pages.codes(row["header"])[0] for row in pages.table(pages.EVENTS, "Headers")}
    message = describe_events()["components"]["messages"]["webhook.peer.left"]

    assert {name for name in documented if name.startswith(("webhook-", "bridge-"))} == message["headers"][
        "properties"
    ].keys()
