"""Many values in one statement: what is stored and found is the same on both databases, whatever the values are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Column, Connection, Float, LargeBinary, MetaData, Table, Text, select

from bridge.db.arrays import insert_many, one_of, types_of, update_many
from bridge.db.tables import BigKey, UtcDateTime
from tests.harness.builders import at
from tests.harness.store_driver import StoreDriver

values = Table(
    "values_of_all_kinds",
    MetaData(),
    Column("id", BigKey, primary_key=True),
    Column("text", Text),
    Column("number", BigInteger),
    Column("share", Float),
    Column("flag", Boolean),
    Column("binary", LargeBinary),
    Column("json", JSON),
    Column("at", UtcDateTime),
)
NAMES = tuple(column.name for column in values.c)
INSERT = insert_many(values, lambda new: new, types_of(values, *NAMES))
FULL: dict[str, Any] = {
    "text": 'it\'s "quoted", \\ {braces}, NULL, %s :name \t\n é 漢 👋',
    "number": -(2**40),
    "share": 0.1,
    "flag": True,
    "binary": bytes(range(256)),
    "json": {"a": [1, None, 'b"'], "ü": {}},
    "at": at(0.123456),
}
JSONS: Sequence[object] = ("text", 1, 0.5, True, [], {}, [[1], [2, 3]])
EMPTY: dict[str, Any] = dict.fromkeys(FULL) | {"json": []}


@pytest.fixture(autouse=True)
def _table(store: StoreDriver) -> None:
    store.write(values.metadata.create_all)


def stored(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(select(values).order_by(values.c.id)).mappings()]


@pytest.mark.parametrize(
    "rows",
    [
        [FULL],
        [EMPTY],
        [EMPTY, FULL, EMPTY],
        [FULL | {"text": text} for text in ("", "NULL", "null", "{}", '"', "\\", ",", " ", "\x01")],
        [FULL | {"number": number} for number in (0, 1, -1, 2**15, 2**31, 2**63 - 1, -(2**63))],
        [FULL | {"binary": binary} for binary in (b"", b"\x00", b"\\x00", b"text")],
        [FULL | {"json": json} for json in JSONS],
        [FULL | {"at": moment} for moment in (at(0), at(-1e9), at(1e10) + timedelta(microseconds=1))],
        [FULL | {"share": share} for share in (0.0, -1.5, 1e300, 2.0)],
    ],
)
def test_values_come_back_as_they_were_inserted(store: StoreDriver, rows: Sequence[dict[str, Any]]) -> None:
    numbered = [{"id": number} | row for number, row in enumerate(rows, start=1)]
    store.write(INSERT.execute, numbered)
    assert store.database.read_now(stored) == numbered


def test_each_row_is_updated_with_its_own_values(store: StoreDriver) -> None:
    store.write(INSERT.execute, [{"id": number} | EMPTY for number in range(1, 4)])
    update = update_many(
        lambda new: values.update().where(values.c.id == new["key"]).values(text=new["text"]),
        types_of(values, "text", key=values.c.id.type),
    )
    store.write(update.execute, [{"key": 3, "text": "three"}, {"key": 1, "text": None}, {"key": 9, "text": "none"}])
    assert [row["text"] for row in store.database.read_now(stored)] == [None, None, "three"]


@pytest.mark.parametrize("wanted", [[], [2], [3, 2, 2], [2**40], list(range(2, 30_000))])
def test_one_of_finds_the_rows_that_have_one_of_the_values(store: StoreDriver, wanted: list[int]) -> None:
    store.write(INSERT.execute, [{"id": number} | FULL for number in (1, 2, 3, 2**40)])
    assert set(found_by(store, values.c.id, wanted)) == {1, 2, 3, 2**40} & set(wanted)


def test_one_of_compares_texts_as_they_are(store: StoreDriver) -> None:
    texts = ["", "NULL", "{}", '"', "\\", "a,b", "A", "é", "%s"]
    store.write(INSERT.execute, [{"id": number} | FULL | {"text": text} for number, text in enumerate(texts, start=1)])
    for some in (texts, texts[:1], texts[3:6], ["a", "b"]):
        assert found_by(store, values.c.text, some) == [text for text in texts if text in some]


def found_by(store: StoreDriver, column: Column[Any], wanted: list[Any]) -> list[Any]:
    statement = select(column).where(one_of(column, "wanted"), values.c.id > 0).order_by(values.c.id)
    return store.database.read_now(lambda connection: list(connection.execute(statement, {"wanted": wanted}).scalars()))
