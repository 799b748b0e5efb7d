"""Receivers that repeat what they are sent must not get secrets into our records: what an attempt left is masked."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote

from bridge.rules.delivery import PostResult

REDACTED = "***"
LEAST_SECRET = 6
"""Characters; shorter header values are no secrets, and would be found everywhere."""
DETAIL_KEPT = 300
"""Characters; cut after what is secret is masked, so that no part of it is left."""
_PREFIX = re.compile("^whs(?:ec|k)_")


def redact(result: PostResult, secrets: Collection[str], headers: Collection[str]) -> PostResult:
    """The result without what it repeats of an endpoint's secrets and the values of its headers."""
    response, detail = result.response, result.detail
    if len(response) + len(detail) < LEAST_SECRET:
        return result
    for text in _spellings(tuple(secrets), tuple(headers)):
        response, detail = response.replace(text.encode(), REDACTED.encode()), detail.replace(text, REDACTED)
    return replace(result, response=response, detail=detail[:DETAIL_KEPT])


@lru_cache(maxsize=4096)
def _spellings(secrets: tuple[str, ...], headers: tuple[str, ...]) -> tuple[str, ...]:
    """What an response could repeat of them, in every usual spelling; the longest first.

    The word before a credential (`Bearer`) and the prefix of a secret may be missing. JSON may escape what it repeats,
    a slash too; in a URL it is percent-encoded.
    """
    said = {*secrets, *headers}
    said |= {text.partition(" ")[2] for text in said} | {_PREFIX.sub("", text) for text in secrets}
    said |= {quote(text, safe="") for text in said} | {json.dumps(text)[1:-1] for text in said}
    said |= {text.replace("/", slash) for text in said for slash in ("\\/", "\\u002f", "\\u002F")}
    return tuple(sorted((text for text in said if len(text) >= LEAST_SECRET), key=len, reverse=True))
