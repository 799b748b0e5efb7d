"""Rules between tables: names that exist, names that are unique, endpoints that may be called.

They run once every field is sound, so a configuration with both kinds of mistakes needs two runs of `bridge check`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

from bridge.config.lines import KeyPath
from bridge.config.models import Settings
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.errors import ForbiddenAddressError
from bridge.rules.egress import check_url

Violation = tuple[KeyPath, str]


def violations(settings: Settings, reference: Callable[[KeyPath], str]) -> Iterator[Violation]:
    """The path and the message of every violated rule; `reference` writes a path for use in a message."""
    sources, rooms = settings.source_tables, settings.room_tables
    only = next(iter(sources)) if len(sources) == 1 else None
    yield from _rooms_without_source(settings)
    ids = ((("rooms", index, "id"), (room.source or only, room.id)) for index, room in enumerate(rooms))
    yield from _repetitions(ids, "is the same room", reference)
    endpoints = settings.endpoint_tables
    names = ((("endpoints", index, "name"), endpoint.name) for index, endpoint in enumerate(endpoints))
    yield from _repetitions(names, "is the same name", reference)
    yield from _forbidden_urls(settings)


def source_problem(source: str | None, sources: Collection[str]) -> str | None:
    """The reason why a room cannot have this source; None is the only one there is."""
    if source in sources or (source is None and len(sources) == 1):
        return None
    if source is None and not sources:
        return "a room needs a source: add [sources.main] with its api_key"
    if source is None:
        return f"must name its source, for there are several: {one_of(sources)}"
    if not sources:
        return f"there is no source {quoted(source)}: add a [sources.…] table of this name"
    return f"there is no source {quoted(source)}{did_you_mean(source, sources) or f'; there is {one_of(sources)}'}"


def _rooms_without_source(settings: Settings) -> Iterator[Violation]:
    sources = settings.source_tables
    for index, room in enumerate(settings.room_tables):
        if (problem := source_problem(room.source, sources)) is not None:
            yield ("rooms", index, "source") if room.source is not None else ("rooms", index), problem
            if room.source is None and not sources:
                return  # the mistake is one, however many rooms there are


def _repetitions(
    values: Iterable[tuple[KeyPath, Hashable]], message: str, reference: Callable[[KeyPath], str]
) -> Iterator[Violation]:
    first: dict[Hashable, KeyPath] = {}
    for path, value in values:
        if first.setdefault(value, path) != path:
            yield path, f"{message} as {reference(first[value])}"


def _forbidden_urls(settings: Settings) -> Iterator[Violation]:
    """Endpoints that no delivery could be sent to; the addresses behind names are checked at each delivery."""
    for index, endpoint in enumerate(settings.endpoint_tables):
        try:
            check_url(endpoint.url, settings.delivery.egress)
        except ForbiddenAddressError as error:
            yield ("endpoints", index, "url"), str(error)
