"""An ASGI app on a socket, inside a running event loop: uvicorn without its signal handlers and logs."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bridge.errors import BridgeError

KEEP_ALIVE_SECONDS = 60
HEAD_SECONDS = 10
"""Time for the head of a request, from the connection or its first byte."""
CLOSING_SECONDS = 1
"""Time for responses under way when the server stops."""


@asynccontextmanager
async def serve_app(app: Starlette, *, host: str, port: int, remedy: str) -> AsyncIterator[str]:
    """Serve until the block is left; yields the URL, as in `http://127.0.0.1:9000/`.

    Args:
        app: The ASGI app.
        host: The address to listen on.
        port: The port; 0 is a free one.
        remedy: What to do when it cannot be listened on, for the message.

    Raises:
        BridgeError: the address cannot be listened on.
    """
    bound = _bind(host, port, remedy)
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving
        bound.close()


class _Connection(H11Protocol):
    """Ends a connection on which no whole request head arrives in time; uvicorn itself would wait for ever."""

    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_head()

    def _expect_head(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._forget_head()
        elif self._head_due is None:
            self._head_due = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _forget_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


class _Server(uvicorn.Server):
    """Handles no signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """A stream is left incomplete on purpose, to close the connection of a client that does not read."""
    return "without completing response" not in record.getMessage()


def _bind(host: str, port: int, remedy: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # of a family of addresses, Python adds a remark
        raise BridgeError(f"cannot listen on {host}:{port} ({reason}): {remedy}") from None
