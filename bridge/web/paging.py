"""Pages of the API's lists: `limit`, `after` and `order` as query parameters, `{"items", "next"}` as the response."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from bridge.admin.listing import Listing, Page, document

T = TypeVar("T")

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500


class Items(BaseModel, Generic[T]):
    """A page of a list."""

    items: list[T]
    next: str | None
    """The `after` of the next page; null on the last one."""


class OrderName(StrEnum):
    """Oldest or newest first; by name, from A or from Z."""

    ASC = "asc"
    DESC = "desc"


Limit = Annotated[int, Query(ge=1, le=LARGEST_LIMIT, description="Number of items on a page.")]
After = Annotated[
    str | None, Query(max_length=2000, description="The `next` of the page before: the page begins behind it.")
]


def _page(limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page:
    return Page(limit=limit, after=after)


def _ordered(default: OrderName) -> Callable[..., Page]:
    def ordered(
        limit: Limit = DEFAULT_LIMIT,
        after: After = None,
        order: Annotated[OrderName, Query(description="`asc` or `desc`.")] = default,
    ) -> Page:
        return Page(limit=limit, after=after, newest_first=order is OrderName.DESC)

    return ordered


NewestFirst = Annotated[Page, Depends(_ordered(OrderName.DESC))]
"""A parameter of handlers whose list is newest first, unless it is asked for with `order=asc`."""
ByName = Annotated[Page, Depends(_ordered(OrderName.ASC))]
"""A parameter of handlers whose list is sorted by name."""


def page_response(listing: Listing[T], as_document: Callable[[T], Any] = document) -> Response:  # type: ignore[assignment]
    """Return the response of a list."""
    return JSONResponse({"items": [as_document(item) for item in listing.items], "next": listing.next})
