"""Reads one HTTP/1 response from the bytes of a connection: pure, however they are split.

It reads every response that curl reads, so that the status of a receiver with sloppy HTTP counts too. A response whose
end was doubtful (RFC 9112 section 6.3) is read, but its connection is not used again.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Final

import httpx

HEAD_LIMIT: Final = 300 * 1024
"""Bytes of status line and headers, of the trailers, and of a chunk's size line; curl's limit."""
_QUOTED: Final = 1000
"""Bytes of the longest line that a message quotes."""

_Steps = Generator[None, None, None]
_STATUS_LINE: Final = re.compile(rb"HTTP/(1\.\d|[2-9]) +([1-9]\d\d)(?!\d)", re.IGNORECASE)
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_FRAMING: Final = re.compile(rb"\n(content-length|transfer-encoding|connection)([ \t]*):([^\n]*)", re.IGNORECASE)
_CODING: Final = re.compile(rb"\ncontent-encoding[ \t]*:", re.IGNORECASE)
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_DIGITS: Final = re.compile(rb"\+?\d{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_WITHOUT_BODY: Final = frozenset((HTTPStatus.SWITCHING_PROTOCOLS, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))


class BadResponseError(Exception):
    """The bytes are not an HTTP response."""


class CutOffError(Exception):
    """The connection ended before the body did."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response; if it is longer than the reader's limit, only its beginning."""

    status: int
    head: bytes
    body: bytes
    is_cut: bool

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return self.status // 100 == 2  # noqa: PLR2004

    @property
    def content_encoding(self) -> str:
        """Of the body; `identity` if it has none."""
        if not _CODING.search(self.head):
            return "identity"
        return self.headers.get("content-encoding", "").strip().lower() or "identity"

    @cached_property
    def headers(self) -> httpx.Headers:
        """The headers, parsed when they are asked for: most are never read."""
        lines = _FOLD.sub(b" ", self.head).split(b"\n")[1:]
        fields = (line.partition(b":") for line in lines if b":" in line)
        return httpx.Headers([(name.strip(), value.strip()) for name, _, value in fields])


class ResponseReader:
    """Takes bytes until the response is complete.

    Args:
        limit: bytes of the body to keep; a longer response counts as complete at that point.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.start()

    def start(self) -> None:
        """Begin with a new response."""
        self.response: Response | None = None
        self.status: int | None = None
        self.has_begun = False
        self.keeps_connection = True
        self._buffer = bytearray()
        self._ended = False
        self._head = b""
        self._body = bytearray()
        self._steps = self._read()

    def feed(self, data: bytes) -> bool:
        """Take bytes; returns whether the response is complete.

        Raises:
            BadResponseError: this is no HTTP response.
        """
        self.has_begun = True
        self._buffer += data
        return self._advance()

    def end(self) -> None:
        """The connection has ended: complete the response.

        Raises:
            BadResponseError: this is no HTTP response.
            CutOffError: the body is not complete.
            ConnectionResetError: the head is not complete.
        """
        self._ended = True
        self.keeps_connection = False
        self._advance()

    def _advance(self) -> bool:
        for _ in self._steps:
            return False
        if self._buffer:  # unexpected bytes after the end
            self.keeps_connection = False
        is_cut = len(self._body) > self._limit
        if is_cut:
            del self._body[self._limit :]
        self.response = Response(status=self.status or 0, head=self._head, body=bytes(self._body), is_cut=is_cut)
        return True

    def _read(self) -> _Steps:
        """Each `yield` waits for more bytes, or for the end of the connection."""
        version, status = yield from self._read_head()
        while 100 <= status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS:  # noqa: PLR2004 - interim responses
            version, status = yield from self._read_head()
        framing = _framing(self._head, version, status)
        self.status = status
        self.keeps_connection = framing.keeps_connection
        if framing.is_chunked:
            yield from self._read_chunks()
        elif framing.length is not None:
            yield from self._read_bytes(framing.length)
        else:
            yield from self._read_to_end()
        if len(self._body) > self._limit:
            self.keeps_connection = False

    def _read_head(self) -> Generator[None, None, tuple[bytes, int]]:
        searched = 0
        while (end := _HEAD_END.search(self._buffer, searched)) is None:
            is_http = b"HTTP/".startswith(self._buffer[:5].upper())
            if not is_http or (b"\n" in self._buffer and not _STATUS_LINE.match(self._buffer)):
                raise BadResponseError(f"it begins with {_quoted(self._buffer)}")
            searched = max(0, len(self._buffer) - 2)
            yield from self._wait(HEAD_LIMIT)
        if end.end() > HEAD_LIMIT:
            raise BadResponseError(f"a head of more than {HEAD_LIMIT} bytes")
        line = _STATUS_LINE.match(self._buffer)
        if line is None:
            raise BadResponseError(f"it begins with {_quoted(self._buffer)}")
        found = line[1], int(line[2])
        self._head = bytes(self._buffer[: end.end()])
        del self._buffer[: end.end()]
        return found

    def _read_chunks(self) -> _Steps:
        while size := _chunk_size((yield from self._read_line())):
            yield from self._read_bytes(size)
            if len(self._body) > self._limit:
                return
            if (yield from self._read_line()):
                raise BadResponseError("a chunk is longer than its size")
        while not self._ended and (yield from self._read_line(may_end=True)):
            pass  # a trailer

    def _read_bytes(self, count: int) -> _Steps:
        wanted = min(count, self._limit + 1 - len(self._body))
        while len(self._buffer) < wanted:
            yield from self._wait()
        if len(self._buffer) == wanted and not self._body:  # a long body is not copied
            self._body, self._buffer = self._buffer, self._body
        else:
            self._body += self._buffer[:wanted]
            del self._buffer[:wanted]

    def _read_to_end(self) -> _Steps:
        self.keeps_connection = False
        while not self._ended and len(self._buffer) <= self._limit:
            yield
        self._body, self._buffer = self._buffer, bytearray()

    def _read_line(self, *, may_end: bool = False) -> Generator[None, None, bytes]:
        while (end := self._buffer.find(b"\n")) < 0:
            if self._ended and may_end:
                self._buffer.clear()
                return b""
            yield from self._wait(HEAD_LIMIT)
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _wait(self, limit: int | None = None) -> _Steps:
        if limit is not None and len(self._buffer) > limit:
            raise BadResponseError(f"a line or a head of more than {limit} bytes")
        if self._ended and self.status is None:
            raise ConnectionResetError("the connection was closed without a response")
        if self._ended:
            raise CutOffError(f"the body was cut off after {len(self._body) + len(self._buffer)} bytes")
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class _Framing:
    """Length of a body, None = up to the end of the connection; whether the connection can be used again."""

    is_chunked: bool
    length: int | None
    keeps_connection: bool


def _framing(head: bytes, version: bytes, status: int) -> _Framing:
    is_doubtful = _FOLD.search(head) is not None
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    options: list[bytes] = []
    for name, space, value in _FRAMING.findall(_FOLD.sub(b" ", head) if is_doubtful else head):
        is_doubtful = is_doubtful or bool(space)
        values = [part.strip().lower() for part in value.split(b",")]
        match name.lower():
            case b"content-length":
                is_doubtful = is_doubtful or bool(lengths) or len(values) > 1
                lengths.update(values)
            case b"transfer-encoding":
                codings += values
            case _:
                options += values
    keeps = b"close" not in options and (version == b"1.1" or b"keep-alive" in options)
    if status in _WITHOUT_BODY:
        is_doubtful = is_doubtful or bool(codings) or not lengths <= {b"0"}
        return _Framing(is_chunked=False, length=0, keeps_connection=keeps and not is_doubtful)
    if b"chunked" in codings:
        is_doubtful = is_doubtful or bool(lengths) or codings[-1] != b"chunked" or version != b"1.1"
        return _Framing(is_chunked=True, length=None, keeps_connection=keeps and not is_doubtful)
    if codings not in ([], [b"identity"]) or not lengths:
        return _Framing(is_chunked=False, length=None, keeps_connection=False)
    length = b", ".join(sorted(lengths))
    if not _DIGITS.fullmatch(length):
        raise BadResponseError(f"its Content-Length is {_quoted(length, is_whole=True)}")
    return _Framing(is_chunked=False, length=int(length), keeps_connection=keeps and not is_doubtful)


def _chunk_size(line: bytes) -> int:
    found = _CHUNK_SIZE.fullmatch(line)
    if found is None:
        raise BadResponseError(f"a chunk begins with {_quoted(line, is_whole=True)}")
    return int(found[1], 16)


def _quoted(raw: bytes | bytearray, *, is_whole: bool = False) -> str:
    """A line for a message: complete or omitted, so that a secret in it can be found and redacted."""
    line, end, _ = raw.partition(b"\n")
    if not (end or is_whole) or len(line) > _QUOTED:
        return "something else"
    text = line.rstrip(b"\r").decode("latin-1")
    return '"' + "".join(each if each.isprintable() else "\ufffd" for each in text) + '"'
