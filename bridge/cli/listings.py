"""One way to print a listing: as JSON or as a table, with the number of items that were left out on stderr."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bridge.admin.listing import COUNTED, Listing, document
from bridge.cli.output import Column, print_json, print_message, print_table

T = TypeVar("T")


def print_listing(
    found: Listing[T],
    columns: Sequence[Column],
    cells: Callable[[T], Sequence[object]],
    *,
    as_json: bool,
    empty: str,
    as_document: Callable[[T], dict[str, Any]] = document,  # type: ignore[assignment]
) -> None:
    """Print the items; `empty` is written to stderr instead of a table without rows."""
    if as_json:
        print_json([as_document(item) for item in found.items])
    else:
        print_table(columns, map(cells, found.items), empty=empty)
    if found.more:
        number = f"{'at least ' if found.more >= COUNTED else ''}{found.more:,}"
        print_message(
            f"{number} more {'is' if found.more == 1 else 'are'} not shown: narrow the listing, or raise --limit"
        )
