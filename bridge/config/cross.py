"""Rules between values: names that exist, names that are unique, endpoints that may be called.

They are for values that are valid by themselves; `remainder` leaves those of them that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

from bridge.config.lines import KeyPath
from bridge.config.models import Settings
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.errors import ForbiddenAddressError
from bridge.rules.egress import check_url

Violation = tuple[KeyPath, str]
Reference = Callable[[KeyPath], str]


def violations(settings: Settings, reference: Reference) -> Iterator[Violation]:
    """Yield the path and the message of every violated rule; `reference` writes a path for use in a message."""
    yield from _rooms_without_source(settings)
    yield from _repetitions(_room_ids(settings), "room", reference)
    yield from _open_to_other_machines(settings)
    if settings.probes.listen is not None and settings.probes.listen == settings.web.listen:
        yield ("probes", "listen"), f"is the same address as {reference(('web', 'listen'))}, which has the probes too"
    for what, key in (("name", "name"), ("token", "digest")):
        values = ((("web", "tokens", i, what), getattr(one, key)) for i, one in enumerate(settings.web.tokens))
        yield from _repetitions(values, what, reference)
    endpoints = settings.endpoint_tables
    names = ((("endpoints", index, "name"), endpoint.name) for index, endpoint in enumerate(endpoints))
    yield from _repetitions(names, "name", reference)
    for index, endpoint in enumerate(endpoints):
        headers = ((("endpoints", index, "headers", name), name.lower()) for name in endpoint.headers)
        yield from _repetitions(headers, "header", reference)
        try:
            check_url(endpoint.url, settings.delivery.egress)
        except ForbiddenAddressError as error:
            yield ("endpoints", index, "url"), str(error)


def source_problem(source: str | None, sources: Collection[str]) -> str | None:
    """Return the reason why a room cannot have this source; None is the only one there is."""
    if source in sources or (source is None and len(sources) == 1):
        return None
    if source is None and not sources:
        return "a room needs a source: add [sources.main] with its api_key"
    if source is None:
        return f"must name its source, for there are several: {one_of(sources)}"
    if not sources:
        return f"there is no source {quoted(source)}: add a [sources.…] table of this name"
    return f"there is no source {quoted(source)}{did_you_mean(source, sources) or f'; there is {one_of(sources)}'}"


def _open_to_other_machines(settings: Settings) -> Iterator[Violation]:
    listen = settings.web.listen
    if listen is not None and not listen.is_loopback and not settings.web.tokens:
        message = (
            "would let other machines in without a token: add one under [[web.tokens]], or listen on "
            f'"127.0.0.1:{listen.port}"'
        )
        yield ("web", "listen"), message


def _rooms_without_source(settings: Settings) -> Iterator[Violation]:
    sources = settings.source_tables
    for index, room in enumerate(settings.room_tables):
        if (problem := source_problem(room.source, sources)) is not None:
            yield ("rooms", index, "source") if room.source is not None else ("rooms", index), problem
            if room.source is None and not sources:
                return  # one mistake, however many rooms there are


def _room_ids(settings: Settings) -> Iterator[tuple[KeyPath, Hashable]]:
    sources = settings.source_tables
    only = next(iter(sources)) if len(sources) == 1 else None
    for index, room in enumerate(settings.room_tables):
        yield ("rooms", index, "id"), (room.source or only, room.id)


def _repetitions(values: Iterable[tuple[KeyPath, Hashable]], what: str, reference: Reference) -> Iterator[Violation]:
    first: dict[Hashable, KeyPath] = {}
    for path, value in values:
        if first.setdefault(value, path) != path:
            yield path, f"is the same {what} as {reference(first[value])}"
