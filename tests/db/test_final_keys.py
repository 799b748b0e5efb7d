"""Keys are final when no open transaction can have one: with writers kept open in every order."""

from __future__ import annotations

import pytest

from bridge.db.final_keys import MOST_OPEN, FinalKeys
from bridge.db.tables import events
from tests.harness.open_writers import writers
from tests.harness.store_driver import StoreDriver


@pytest.fixture
def store(postgresql_store: StoreDriver) -> StoreDriver:
    postgresql_store.track("a")
    return postgresql_store


def look(store: StoreDriver, final: FinalKeys) -> int:
    return store.database.look_now(final.look)


def test_a_key_below_an_open_one_is_final_and_one_above_it_is_not(store: StoreDriver) -> None:
    final = FinalKeys()
    with writers(store, 2) as (slow, quick):
        first = quick.append(1)
        quick.commit()
        assert look(store, final) == first
        kept, newest = slow.append(2), quick.append(3)
        quick.commit()

        assert look(store, final) == first
        assert final.is_waiting
        slow.commit()
        assert look(store, final) == newest == kept + 1
        assert not final.is_waiting


def test_an_open_transaction_that_is_younger_than_all_that_have_ended_counts_too(store: StoreDriver) -> None:
    """A snapshot does not know it: its `xmin` and `xmax` are those of the last transaction that has ended."""
    final = FinalKeys()
    assert look(store, final) == 0
    with writers(store, 2) as (older, younger):
        older.begin()
        younger.begin()
        younger.append(1)
        newest = older.append(2)
        older.commit()

        assert look(store, final) == 0
        younger.rollback()
        assert look(store, final) == newest


def test_later_writers_and_other_transactions_delay_nothing(store: StoreDriver) -> None:
    final = FinalKeys()
    with writers(store, 3) as (first, second, other):
        other.begin()
        assert look(store, final) == 0
        key = first.append(1)
        assert look(store, final) == 0
        second.append(2)
        first.commit()

        assert look(store, final) == key
        assert look(store, final) == key
        second.rollback()
        assert look(store, final) == key + 1


def test_the_first_look_does_not_reach_to_keys_of_open_transactions(store: StoreDriver) -> None:
    with writers(store, 2) as (first, other):
        lowest = first.append(1)
        other.append(2)
        other.commit()

        assert look(store, FinalKeys()) < lowest <= MOST_OPEN


def test_on_sqlite_everything_that_is_there_is_final(sqlite_store: StoreDriver) -> None:
    final = FinalKeys()
    assert look(sqlite_store, final) == 0
    sqlite_store.record_joins(0, "a")

    assert look(sqlite_store, final) == max(row.id for row in sqlite_store.rows(events)) > 0
    assert not final.is_waiting
