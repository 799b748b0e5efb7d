"""One way to print a listing: as JSON or as a table, with the number of items that were left out on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from bridge.admin.listing import COUNTED, Listing, Page, document, pages
from bridge.cli.output import Column, print_json_array, print_message, print_table

T = TypeVar("T")


def print_listing(
    read: Callable[[Page], Listing[T]],
    columns: Sequence[Column],
    cells: Callable[[T], Sequence[object]],
    *,
    limit: int,
    as_json: bool,
    empty: str,
    as_document: Callable[[T], dict[str, Any]] = document,  # type: ignore[assignment]
) -> Sequence[T]:
    """Print up to `limit` items, which are read page by page; JSON is printed as it is read.

    Returns:
        The items of a table.
    """
    left_out = 0

    def items() -> Iterator[T]:
        nonlocal left_out
        for page in pages(read, limit):
            yield from page.items
            left_out = page.more

    shown: Sequence[T] = ()
    if as_json:
        print_json_array(map(as_document, items()))
    else:
        shown = list(items())
        print_table(columns, map(cells, shown), empty=empty)
    if left_out:
        number = f"{'at least ' if left_out >= COUNTED else ''}{left_out:,}"
        print_message(
            f"{number} more {'is' if left_out == 1 else 'are'} not shown: narrow the listing, or raise --limit"
        )
    return shown
