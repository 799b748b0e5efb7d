"""Smaller responses, for browsers that take gzip."""

from __future__ import annotations

import gzip

from fastapi import Request
from fastapi.responses import Response

LEVEL = 6
WORTH_IT = 1000
"""Bytes."""


def compress(response: Response, request: Request) -> Response:
    """Return the response with its body compressed, if the browser accepts that and it is large enough."""
    body = bytes(response.body)
    response.headers["vary"] = "accept-encoding"
    if len(body) < WORTH_IT or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    response.body = gzip.compress(body, LEVEL, mtime=0)
    response.headers["content-encoding"] = "gzip"
    response.headers["content-length"] = str(len(response.body))
    return response
