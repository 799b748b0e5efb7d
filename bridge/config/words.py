"""Words in messages: quoted, listed as alternatives, and the nearest known word for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache


def printable(text: str) -> str:
    """Return the text with characters escaped that would control a terminal or cannot be encoded."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """Return the text in quotes, safe to print."""
    return f'"{printable(text)}"'


def one_of(words: Iterable[str]) -> str:
    """Return alternatives for a sentence: `"a", "b" or "c"`."""
    *others, last = map(quoted, words)
    return f"{', '.join(others)} or {last}" if others else last


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar of the words, ignoring case; None if none is similar."""
    return _nearest(word, tuple(words))


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence, `; did you mean "x"?`, or nothing."""
    known = nearest(word, words)
    return f"; did you mean {quoted(known)}?" if known is not None else ""


@lru_cache
def _nearest(word: str, words: tuple[str, ...]) -> str | None:
    """Find the nearest word; cached, because a list of rooms may repeat one mistake thousands of times."""
    by_form = {known.casefold(): known for known in words}
    matches = get_close_matches(word.casefold(), by_form, n=1)
    return by_form[matches[0]] if matches else None
