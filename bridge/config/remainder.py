"""The configuration without its mistakes: the rules between values hold for the rest of it too.

What must not be missing is replaced by a stand-in that breaks no rule, and what a rule finds because of a mistake is
left out: it would not be there without that one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from pydantic import ValidationError

from bridge.config.cross import Reference, Violation, violations
from bridge.config.lines import KeyPath
from bridge.config.models import Settings
from bridge.config.secrets import Context
from bridge.config.words import nearest

_STAND_INS: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "rooms": lambda index: {"id": f"stand-in {index}"},
    "endpoints": lambda index: {"name": f"stand-in {index}", "url": "https://stand-in.example"},
    "tokens": lambda index: {"name": f"stand-in {index}", "token": f"stand-in-{index}", "scopes": ["read"]},
}


def other_violations(
    tree: dict[str, Any], mistakes: Collection[KeyPath], context: Context, reference: Reference
) -> Iterator[Violation]:
    """Yield the violated rules that do not come from these mistakes; none if too little is left without them."""
    rest = deepcopy(tree)
    for path in mistakes:
        _take_out(rest, path)
    try:
        settings = Settings.model_validate(rest, context=context)
    except ValidationError:
        return
    explained = _Explained(mistakes)
    for path, message in violations(settings, reference):
        if not explained.has(path):
            yield path, message


def _take_out(tree: dict[str, Any], path: KeyPath) -> None:
    match path:
        case ("sources", name, *_) if isinstance(tree["sources"], dict):
            tree["sources"][name] = {"api_key": "stand-in"}
        case ("web", "tokens", int() as index, *_):
            tree["web"]["tokens"][index] = _STAND_INS["tokens"](index)
        case ("rooms" | "endpoints" as table, int() as index, key, *_) if isinstance(tree[table][index], dict):
            stand_in, item = _STAND_INS[table](index), tree[table][index]
            item.pop(f"{key}_file", None)
            item.pop(key, None)
            item |= {needed: value for needed, value in stand_in.items() if needed == key}
        case ("rooms" | "endpoints" as table, int() as index, *_):
            tree[table][index] = _STAND_INS[table](index)
        case (section, key, *_) if isinstance(tree.get(str(section)), dict):
            tree[str(section)].pop(key, None)
            tree[str(section)].pop(f"{key}_file", None)
        case (section, *_):
            tree.pop(str(section), None)
        case _:
            pass


class _Explained:
    """Knows which rules may be violated only because of the mistakes."""

    def __init__(self, mistakes: Collection[KeyPath]) -> None:
        self._urls = {mistake for mistake in mistakes if mistake[-1] == "url"}
        self._rooms = {mistake[:2] for mistake in mistakes if _is_like(mistake[-1], "source")}
        self._has_delivery = any(mistake[0] == "delivery" for mistake in mistakes)
        self._has_sources = any(len(mistake) == 1 and _is_like(mistake[0], "sources") for mistake in mistakes)
        self._has_listener = any(
            mistake[0] in ("web", "probes") and _is_about_listening(mistake) for mistake in mistakes
        )

    def has(self, violation: KeyPath) -> bool:
        match violation:
            case ("rooms", _, "source") | ("rooms", _):
                return self._has_sources or violation[:2] in self._rooms
            case ("endpoints", _, "url"):
                return self._has_delivery or violation in self._urls
            case ("web" | "probes", "listen"):
                return self._has_listener
            case _:
                return False


def _is_about_listening(mistake: KeyPath) -> bool:
    """Whether it is about the section, or its `listen` or `tokens` as a whole."""
    match mistake:
        case (_,):
            return True
        case (_, key):
            return _is_like(key, "listen", "tokens")
        case _:
            return False


def _is_like(key: str | int, *keys: str) -> bool:
    """Whether it is one of the keys, or one of them misspelt."""
    return nearest(str(key), keys) is not None
