"""What must hold between the tables of the configuration: names that exist, names that are unique, closed doors.

These rules read the merged document, not the validated models, so that one misspelt key does not hide them; what is
not of the expected type is passed over here, because the models report it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from bridge.config.document import Document, dotted
from bridge.config.fields import parse_listen
from bridge.config.lines import KeyPath
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.errors import Problem


def broken_rules(document: Document) -> Iterator[Problem]:
    """Every rule that the document breaks."""
    sources = document.get(("sources",))
    sources = sources if isinstance(sources, dict) else {}
    rooms = list(_tables(document, ("rooms",)))
    yield from _rooms_without_source(document, rooms, sources)
    yield from _repeated(document, _room_identities(rooms, sources), "is the same room")
    for tables, key in ((("endpoints",), "name"), (("web", "tokens"), "name"), (("web", "tokens"), "token")):
        identities = (((*path, key), table.get(key)) for path, table in _tables(document, tables))
        yield from _repeated(document, identities, f"is the same {key}")
    for path, endpoint in _tables(document, ("endpoints",)):
        yield from _repeated(document, _header_identities(path, endpoint), "is the same header")
    yield from _open_door(document)


def source_of(named: object, sources: Iterable[str]) -> str | None:
    """The source that a room names, else the only one there is."""
    if named is None:
        only, *others = [*sources] or [None]
        return None if others else only
    return named if isinstance(named, str) else None


def _tables(document: Document, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    items = document.get(path)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (*path, index), item


def _rooms_without_source(
    document: Document, rooms: Iterable[tuple[KeyPath, dict[str, Any]]], sources: dict[str, Any]
) -> Iterator[Problem]:
    hints: dict[str, str] = {}
    for path, room in rooms:
        named = room.get("source")
        if named is None and len(sources) > 1:
            yield document.problem(path, f"must name its source, for there are several: source = {one_of(sources)}")
        elif named is None and not sources:
            yield document.problem(path, "a room needs a source to ask: add [sources.main] with its api_key")
            return
        elif isinstance(named, str) and named not in sources:
            if named not in hints:
                hints[named] = did_you_mean(named, sources) or f": add [sources.NAME], or use {_known(sources)}"
            yield document.problem((*path, "source"), f"there is no source {quoted(named)}{hints[named]}")


def _known(sources: Iterable[str]) -> str:
    return one_of(sources) if sources else "none"


def _room_identities(
    rooms: Iterable[tuple[KeyPath, dict[str, Any]]], sources: dict[str, Any]
) -> Iterator[tuple[KeyPath, Hashable]]:
    for path, room in rooms:
        if isinstance(room.get("id"), str):
            yield (*path, "id"), (source_of(room.get("source"), sources), room["id"])


def _header_identities(path: KeyPath, endpoint: dict[str, Any]) -> Iterator[tuple[KeyPath, Hashable]]:
    headers = endpoint.get("headers")
    for name in headers if isinstance(headers, dict) else ():
        yield (*path, "headers", name), name.lower()


def _repeated(document: Document, identities: Iterable[tuple[KeyPath, object]], what: str) -> Iterator[Problem]:
    """What must be unique and is not; the message says where it was first, and never what it is: it may be a token."""
    first: dict[Hashable, KeyPath] = {}
    for path, identity in identities:
        if isinstance(identity, Hashable) and identity is not None and first.setdefault(identity, path) != path:
            yield document.problem(path, f"{what} as {_place(document, first[identity])}")


def _place(document: Document, path: KeyPath) -> str:
    line = document.line(path)
    return dotted(path) if line is None else f"{dotted(path)} in line {line}"


def _open_door(document: Document) -> Iterator[Problem]:
    """CONTRACT section 3: a `web.listen` that is not loopback without a token is a configuration error."""
    listen = document.get(("web", "listen"))
    if not isinstance(listen, str) or document.get(("web", "tokens")):
        return
    try:
        address = parse_listen(listen)
    except ValueError:
        return  # the models report it
    if address is not None and not address.is_loopback:
        remedy = 'add a token to web.tokens, or listen on "127.0.0.1"'
        yield document.problem(("web", "listen"), f"lets other machines in, and there is no token: {remedy}")
