"""What must hold between the tables of the configuration: names that exist, names that are unique, closed doors.

These rules read the merged document, not the validated models, so that one misspelt key does not hide them; what is
not of the expected type is passed over here, because the models report it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any

from bridge.config.document import Document, dotted
from bridge.config.fields import parse_listen, parse_network
from bridge.config.lines import KeyPath
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.errors import ForbiddenAddressError, Problem
from bridge.rules.egress import EgressPolicy, check_url

Tables = Iterable[tuple[KeyPath, dict[str, Any]]]


def broken_rules(document: Document) -> Iterator[Problem]:
    """Every rule that the document breaks."""
    sources = document.get(("sources",))
    sources = sources if isinstance(sources, dict) else {}
    rooms = list(_tables(document, ("rooms",)))
    yield from _rooms_without_source(document, rooms, sources)
    yield from _repeated(document, _room_identities(rooms, sources), "is the same room")
    for tables, key in ((("endpoints",), "name"), (("web", "tokens"), "name"), (("web", "tokens"), "token")):
        yield from _repeated(document, _texts(document, tables, key), f"is the same {key}")
    for path, endpoint in _tables(document, ("endpoints",)):
        yield from _repeated(document, _header_identities(path, endpoint), "is the same header")
    yield from _open_door(document)


def forbidden_urls(document: Document) -> Iterator[Problem]:
    """Endpoints that no delivery could ever go to; what their names resolve to is judged when they are sent to."""
    policy = _egress(document.get(("delivery",)))
    for path, endpoint in _tables(document, ("endpoints",)):
        if policy is None or not isinstance(url := endpoint.get("url"), str):
            continue
        try:
            check_url(url, policy)
        except ForbiddenAddressError as error:
            yield document.problem((*path, "url"), str(error))


def _egress(delivery: object) -> EgressPolicy | None:
    """What `[delivery]` opens; None if it cannot be read, which the models report."""
    table = delivery if isinstance(delivery, dict) else {}
    allow_http, networks = table.get("allow_http", False), table.get("allow_private_networks", [])
    if not isinstance(allow_http, bool) or not isinstance(networks, list):
        return None
    try:
        return EgressPolicy(
            allow_http=allow_http, allow_private_networks=tuple(parse_network(str(text)) for text in networks)
        )
    except ValueError:
        return None


def only_source(sources: Collection[str]) -> str | None:
    """The source of rooms that name none: the only one there is."""
    return next(iter(sources)) if len(sources) == 1 else None


def _tables(document: Document, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    items = document.get(path)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (*path, index), item


def _rooms_without_source(document: Document, rooms: Tables, sources: Collection[str]) -> Iterator[Problem]:
    hints: dict[str, str] = {}
    for path, room in rooms:
        match room.get("source"):
            case None if not sources:
                yield document.problem(path, "a room needs a source to ask: add [sources.main] with its api_key")
                return
            case None if len(sources) > 1:
                yield document.problem(path, f"must name its source, for there are several: {one_of(sources)}")
            case str() as named if named not in sources:
                if named not in hints:
                    hints[named] = _instead_of(named, sources)
                yield document.problem((*path, "source"), f"there is no source {quoted(named)}{hints[named]}")


def _instead_of(named: str, sources: Collection[str]) -> str:
    if not sources:
        return ": add a [sources.…] table of this name"
    return did_you_mean(named, sources) or f"; there is {one_of(sources)}"


def _room_identities(rooms: Tables, sources: Collection[str]) -> Iterator[tuple[KeyPath, Hashable]]:
    default = only_source(sources)
    for path, room in rooms:
        source = room.get("source", default)
        if isinstance(room.get("id"), str) and isinstance(source, str):
            yield (*path, "id"), (source, room["id"])


def _texts(document: Document, tables: KeyPath, key: str) -> Iterator[tuple[KeyPath, Hashable]]:
    for path, table in _tables(document, tables):
        if isinstance(text := table.get(key), str):
            yield (*path, key), text


def _header_identities(path: KeyPath, endpoint: dict[str, Any]) -> Iterator[tuple[KeyPath, Hashable]]:
    headers = endpoint.get("headers")
    for name in headers if isinstance(headers, dict) else ():
        yield (*path, "headers", name), name.lower()


def _repeated(document: Document, identities: Iterable[tuple[KeyPath, Hashable]], what: str) -> Iterator[Problem]:
    """What must be unique and is not; the message says where it was first, and never what it is: it may be a token."""
    first: dict[Hashable, KeyPath] = {}
    for path, identity in identities:
        if first.setdefault(identity, path) != path:
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
