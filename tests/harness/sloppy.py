"""Responses that curl reads, whatever RFC 9112 says about them; after most of them a connection cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def _response(*headers: str, begin: str = "HTTP/1.1 200 OK", end: str = "\r\n") -> Callable[[bytes], bytes]:
    def form(body: bytes) -> bytes:
        lines = (begin, *(header.replace("LENGTH", str(len(body))) for header in headers), "")
        return end.join(lines).encode("latin-1") + end.encode() + body

    return form


def _chunked(
    *headers: str, size: str = "{:x}", end: bytes = b"\r\n", last: bytes = b"0\r\n\r\n"
) -> Callable[[bytes], bytes]:
    def form(body: bytes) -> bytes:
        head = "\r\n".join(("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", "")).encode()
        halves = body[: len(body) // 2], body[len(body) // 2 :]
        return head + b"".join(size.format(len(half)).encode() + end + half + end for half in halves) + last

    return form


LENGTH = "Content-Length: LENGTH"

KEPT: Mapping[str, Callable[[bytes], bytes]] = {
    "plain": _response(LENGTH),
    "header of 64 KiB": _response("X-Policy: " + "y" * 65_526, LENGTH),
    "500 headers": _response(*(f"X-{number}: y" for number in range(500)), LENGTH),
    "LF only": _response(LENGTH, end="\n"),
    "lower case": _response(LENGTH, begin="http/1.1 200 ok"),
    "no reason": _response(LENGTH, begin="HTTP/1.1 200"),
    "obs-text": _response("X-Name: Ren\xe9", LENGTH),
    "name with a space": _response("X Name: y", LENGTH),
    "no colon": _response("X-Name", LENGTH),
    "trailers": _chunked(last=b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"),
    "chunk extension": _chunked(size="{:x};name=value"),
    "padded chunk size": _chunked(size="000{:X}  "),
    "chunks with LF only": _chunked(end=b"\n", last=b"0\n\n"),
    "interim response": lambda body: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _response(LENGTH)(body),
}
"""The connection is kept."""

CLOSED: Mapping[str, Callable[[bytes], bytes]] = {
    "two equal lengths": _response(LENGTH, LENGTH),
    "a list of equal lengths": _response("Content-Length: LENGTH, LENGTH"),
    "length and chunked": _chunked("Content-Length: 3"),
    "space before the colon": _response("Content-Length : LENGTH"),
    "folded length": _response("Content-Length:\r\n LENGTH"),
    "bytes after the end": lambda body: _response(LENGTH)(body) + b"\r\nmore",
    "the response twice": lambda body: _response(LENGTH)(body) * 2,
    "bytes after the last chunk": lambda body: _chunked()(body) + b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
    "bytes after connection: close": lambda body: _response(LENGTH, "Connection: close")(body) + b"more",
    "HTTP/1.0": _response(LENGTH, begin="HTTP/1.0 200 OK"),
    "HTTP/2 in HTTP/1": _response(LENGTH, begin="HTTP/2 200"),
    "plus": _response("Content-Length: +LENGTH", "Connection: close"),
    "chunked, identity": lambda body: _chunked()(body).replace(b"chunked", b"chunked, identity"),
    "chunked in HTTP/1.0": lambda body: _chunked()(body).replace(b"HTTP/1.1", b"HTTP/1.0"),
}
"""The connection is closed: it was asked to, or the end of the response was doubtful."""
