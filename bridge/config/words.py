"""How messages name things: quoted, listed, and what somebody who misspelt a word probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache


def printable(text: str) -> str:
    """The text with everything escaped that could fool a terminal or cannot be encoded."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def quoted(text: str) -> str:
    """The text in quotes, safe to print."""
    return f'"{printable(text)}"'


def one_of(words: Iterable[str]) -> str:
    """A choice for a sentence: `"a", "b" or "c"`."""
    *others, last = map(quoted, words)
    return f"{', '.join(others)} or {last}" if others else last


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The most similar of the words (case does not matter), or None when nothing is similar."""
    return _nearest(word, tuple(words))


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`; did you mean "x"?` to end a sentence with, or nothing."""
    known = nearest(word, words)
    return f"; did you mean {quoted(known)}?" if known is not None else ""


@lru_cache
def _nearest(word: str, words: tuple[str, ...]) -> str | None:
    """Cached, because a mistake in a long list of rooms is made in every one of them."""
    by_form = {known.casefold(): known for known in words}
    matches = get_close_matches(word.casefold(), by_form, n=1)
    return by_form[matches[0]] if matches else None
