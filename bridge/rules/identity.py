"""The person, the name and the metadata that are taken from a peer: the rules of `[identity]`.

Pure. Paths are looked up in the metadata before it is cut: parts that are not stored may still identify the person.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bridge.rules.presence import Json

METADATA_LIMIT: Final = 8 * 1024
"""Bytes of compact UTF-8 JSON."""
METADATA_DEPTH: Final = 100
"""Levels of nesting; deeper metadata is cut like longer metadata, because it is compared recursively."""
KEY_LIMIT: Final = 512
"""Characters of a person's key; a database index would not take a much longer one."""
NAME_LIMIT: Final = METADATA_LIMIT
"""Characters of a display name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPolicy:
    """Paths in metadata (`user.email` reaches inside), the first match counts. `metadata`: None keeps all of it."""

    person_key: tuple[str, ...] = ("email", "walletAddress")
    display_name: tuple[str, ...] = ("displayName", "name")
    metadata: tuple[str, ...] | None = None


def find_person_key(documents: Sequence[Json], policy: IdentityPolicy) -> str | None:
    """The first text at the policy's paths that is not empty."""
    found = next((text for text in _texts(documents, policy.person_key) if text), None)
    return None if found is None else storable(found)[:KEY_LIMIT]


def find_display_name(documents: Sequence[Json], policy: IdentityPolicy) -> str | None:
    """The first text at the policy's paths."""
    found = next(_texts(documents, policy.display_name), None)
    return None if found is None else storable(found)[:NAME_LIMIT]


def keep_metadata(value: Json, policy: IdentityPolicy) -> Json:
    """The part of the metadata that is stored and sent; `{"_truncated": true}` if that is too large."""
    return cut_metadata(value if policy.metadata is None else _selected(value, policy.metadata))


def cut_metadata(value: Json) -> Json:
    """The metadata, or a mark instead if it is too large."""
    return value if _fits(value) else {"_truncated": True}


def storable(text: str) -> str:
    """PostgreSQL stores no NUL."""
    return text.replace("\0", "\ufffd")


def _texts(documents: Sequence[Json], paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        for document in documents:
            value = _at(document, path)
            if isinstance(value, str):
                yield value


def _at(document: Json, path: str) -> Json:
    """The value at a path; a key that has the whole path as its name comes first."""
    if not isinstance(document, dict):
        return None
    if path in document:
        return document[path]
    first, _, rest = path.partition(".")
    return _at(document.get(first), rest) if rest else None


def _selected(value: Json, paths: tuple[str, ...]) -> Json:
    if not isinstance(value, dict) or not paths:
        return None
    kept: dict[str, Json] = {}
    for path in paths:
        first, _, rest = path.partition(".")
        if path in value:
            kept[path] = value[path]
        elif rest and isinstance(inner := _selected(value.get(first), (rest,)), dict) and inner:
            before = kept.get(first)
            kept[first] = {**before, **inner} if isinstance(before, dict) else inner
    return kept


def _fits(value: Json) -> bool:
    if not isinstance(value, str | dict | list):
        return True
    try:
        encoded = json.dumps(value, ensure_ascii=False, separators=(",", ":"), check_circular=False).encode()
    except RecursionError:
        return False
    brackets = encoded.count(b"{") + encoded.count(b"[")
    return len(encoded) <= METADATA_LIMIT and (brackets <= METADATA_DEPTH or not _is_deeper(value, METADATA_DEPTH))


def _is_deeper(value: Json, levels: int) -> bool:
    match value:
        case dict():
            inner = list(value.values())
        case list():
            inner = value
        case _:
            return False
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)
