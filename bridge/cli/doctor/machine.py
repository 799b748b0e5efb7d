"""This machine as `bridge doctor` finds it: version, open files, the web port."""

from __future__ import annotations

import asyncio
import errno
import platform
import resource
import socket
from typing import Final

from bridge import __version__
from bridge.cli.doctor.findings import Check, Finding, fail, ok, warn
from bridge.config import ListenAddress, Settings
from bridge.delivery.sender import REDELIVERY_SLOTS, SLOTS
from bridge.service import OPEN_FILES, SPARE_FILES

SECONDS: Final = 5
_ALIVE: Final = b"ok\n"
_ANSWER_READ: Final = 4096


def check_machine(settings: Settings) -> list[Finding]:
    """What can be seen without asking anybody."""
    return [
        ok(Check.VERSION, None, f"bridge {__version__}, Python {platform.python_version()}, {platform.system()}"),
        _check_open_files(settings),
    ]


def _check_open_files(settings: Settings) -> Finding:
    """The service raises the soft limit by itself, as far as the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    usable = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    wanted = SLOTS + REDELIVERY_SLOTS + sum(account.max_concurrency for account in settings.sources) + SPARE_FILES
    if usable < wanted:
        advice = "raise the hard limit (ulimit -Hn, or LimitNOFILE= of the systemd unit)"
        return warn(Check.OPEN_FILES, None, f"at most {usable}, and up to {wanted} may be needed", advice)
    return ok(Check.OPEN_FILES, None, f"up to {usable}, {wanted} suffice")


async def check_web(listen: ListenAddress | None) -> Finding:
    """Whether the web server could listen, or does so already."""
    if listen is None:
        return ok(Check.WEB, None, "off")
    subject = f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}"
    error = _try_to_bind(listen)
    if error is None:
        return ok(Check.WEB, subject, "free: no service listens there now")
    if error.errno != errno.EADDRINUSE:
        return fail(Check.WEB, subject, f"cannot be listened on: {_reason(error)}", "choose another web.listen")
    if await _is_ours(listen):
        return ok(Check.WEB, subject, "a bridge answers there")
    advice = "stop it, or choose another web.listen"
    return fail(Check.WEB, subject, "taken by a program that is no bridge", advice)


def _try_to_bind(listen: ListenAddress) -> OSError | None:
    """As the service does, without listening: a service that starts at this moment is not in its way."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((listen.host, listen.port))
        except OSError as error:
            return error
    return None


async def _is_ours(listen: ListenAddress) -> bool:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - compared, not bound
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(here, listen.port)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                response = b""
                while len(response) < _ANSWER_READ and (more := await reader.read(_ANSWER_READ)):
                    response += more  # head and body may come apart
            finally:
                writer.transport.abort()
    except OSError:
        return False
    head, _, body = response.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and body == _ALIVE


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
