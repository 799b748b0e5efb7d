"""Limits of request bodies, whether their length is declared or they come in chunks."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from bridge.web.problems import ProblemError

LARGEST_BODY: Final = 1024 * 1024
BODY_SECONDS: Final = 10
"""Time for a whole body, from when a handler asks for it."""
_CLOSE: Final = {"Connection": "close"}


def limited(receive: Receive, headers: Headers) -> Receive:
    """Return `receive` for a body that is neither larger nor slower than allowed.

    Raises:
        ProblemError: the declared length is too large already. The returned function raises the same, or 408.
    """
    declared = headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > len(str(LARGEST_BODY)) + 1 or int(declared) > LARGEST_BODY):
        raise _too_large()
    size, is_complete = 0, False
    deadline: float | None = None

    async def receive_limited() -> Message:
        nonlocal size, is_complete, deadline
        if is_complete:
            return await receive()
        deadline = deadline or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise ProblemError(408, f"the body did not arrive within {BODY_SECONDS} s", _CLOSE) from None
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise _too_large()
        is_complete = not message.get("more_body", False)
        return message

    return receive_limited


def _too_large() -> ProblemError:
    return ProblemError(413, f"the body is larger than {LARGEST_BODY} bytes", _CLOSE)
