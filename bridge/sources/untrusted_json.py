"""Parsing untrusted JSON: the result can always be encoded as UTF-8 and as JSON again.

Stricter than `json.loads` (no NaN, no Infinity, UTF-8 only), and more lenient with three values that participants could
put into metadata: lone surrogates become U+FFFD, values nested too deeply for the parser become null, and numbers that
no receiver could read (1e400, or thousands of digits) become text.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn, cast

from bridge.rules.presence import Json

PARSED_DEPTH: Final = 128
"""Levels kept of a text that is nested too deeply to be parsed."""

_DIGITS: Final = 400
"""Of an integer: more than any double has; Python refuses to parse several thousands."""
_BOM: Final = b"\xef\xbb\xbf"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL
)
_LONE_ESCAPE_LENGTH: Final = len(r"\ud800")
_STRING_OR_BRACKET: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def decode_json(raw: bytes) -> Json:
    """Parse a body.

    Raises:
        ValueError: it is not UTF-8, or not JSON (RFC 8259).
    """
    return decode_json_text(raw.removeprefix(_BOM).decode())


def decode_json_text(text: str) -> Json:
    """Parse a text.

    Raises:
        ValueError: it is not JSON (RFC 8259).
    """
    if _SURROGATE.search(text):
        text = _ESCAPE.sub(_without_lone_surrogate, text)
    try:
        return cast("Json", _DECODER.decode(text))
    except RecursionError:
        return cast("Json", _DECODER.decode(_pruned(text)))


def encode_json(value: Json) -> bytes:
    """Compact UTF-8 JSON."""
    return _ENCODER.encode(value).encode()


def _without_lone_surrogate(escape: re.Match[str]) -> str:
    """Escapes of surrogate pairs are longer than that of a lone one, other escapes shorter."""
    return r"\ufffd" if len(escape[0]) == _LONE_ESCAPE_LENGTH else escape[0]


def _pruned(text: str) -> str:
    """The text with null for every array and object that lies deeper than PARSED_DEPTH."""
    kept: list[str] = []
    depth = start = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == PARSED_DEPTH + 1:
                kept += (text[start : token.start()], "null")
        elif token[0] in "]}":
            if depth == PARSED_DEPTH + 1:
                start = token.end()
            depth -= 1
    return "".join((*kept, text[start:]))


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _bounded(text: str) -> int | str:
    return int(text) if len(text) <= _DIGITS else text


_DECODER: Final = json.JSONDecoder(parse_constant=_refused, parse_float=_finite, parse_int=_bounded)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
