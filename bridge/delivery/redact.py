"""Redacts secrets from results, so that a receiver that echoes a request cannot put them into attempts and logs."""

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
"""Characters; shorter header values are no secrets, and would match too many texts."""
DETAIL_KEPT = 300
"""Characters; cut after secrets are redacted, so that no part of one is left."""
_PREFIX = re.compile("^whs(?:ec|k)_")


def redact(result: PostResult, secrets: Collection[str], headers: Collection[str]) -> PostResult:
    """The result without the endpoint's secrets and the values of its headers."""
    response, detail = result.response, result.detail
    if len(response) + len(detail) < LEAST_SECRET:
        return result
    for text in _spellings(tuple(secrets), tuple(headers)):
        response, detail = response.replace(text.encode(), REDACTED.encode()), detail.replace(text, REDACTED)
    return replace(result, response=response, detail=detail[:DETAIL_KEPT])


@lru_cache(maxsize=4096)
def _spellings(secrets: tuple[str, ...], headers: tuple[str, ...]) -> tuple[str, ...]:
    """The usual spellings of secrets and header values in a response, the longest first.

    The word before a credential (`Bearer`) and the prefix of a secret may be missing. JSON may escape what it repeats,
    a slash too; in a URL it is percent-encoded.
    """
    spellings = {*secrets, *headers}
    spellings |= {text.partition(" ")[2] for text in spellings} | {_PREFIX.sub("", text) for text in secrets}
    spellings |= {quote(text, safe="") for text in spellings} | {json.dumps(text)[1:-1] for text in spellings}
    spellings |= {text.replace("/", slash) for text in spellings for slash in ("\\/", "\\u002f", "\\u002F")}
    return tuple(sorted((text for text in spellings if len(text) >= LEAST_SECRET), key=len, reverse=True))
