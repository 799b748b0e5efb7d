"""Responses that the reader accepts, however they are split, and responses that it refuses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.http_response import HEAD_LIMIT, BadResponseError, CutOffError, Response, ResponseReader
from tests.harness.sloppy import CLOSED, KEPT

BODY = b'{"ok":true}'
FORMS = [(form, keeps) for forms, keeps in ((KEPT, True), (CLOSED, False)) for form in forms.values()]


def read(*pieces: bytes, limit: int = 1000, ends: bool = False) -> tuple[Response | None, ResponseReader]:
    reader = ResponseReader(limit)
    for piece in pieces:
        if reader.feed(piece):
            break
    if ends and reader.response is None:
        reader.end()
    return reader.response, reader


@settings(max_examples=200, deadline=None)
@given(form=st.sampled_from(FORMS), data=st.data())
def test_the_pieces_make_no_difference(form: tuple[object, bool], data: st.DataObject) -> None:
    make, keeps = form
    raw = make(BODY)  # type: ignore[operator]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(raw)])]

    response, reader = read(*pieces)

    assert response is not None
    assert (response.status, response.body, response.is_cut) == (200, BODY, False)
    assert reader.keeps_connection in (keeps, True)  # bytes after the end may come in a piece of their own
    whole, at_once = read(raw)
    assert whole == response
    assert at_once.keeps_connection is keeps


@pytest.mark.parametrize(
    ("raw", "keeps"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\nbody", False),
        (b"HTTP/1.0 204 No Content\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.0 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\nConnection: foo, Close\r\n\r\n", False),
    ],
)
def test_a_204_has_no_body(raw: bytes, *, keeps: bool) -> None:
    response, reader = read(raw)

    assert response is not None
    assert (response.status, response.body, reader.keeps_connection) == (204, b"", keeps)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Tra", b"ok"),
    ],
)
def test_the_end_of_the_connection_completes_a_response(raw: bytes, body: bytes) -> None:
    response, reader = read(raw, ends=True)

    assert response is not None
    assert (response.body, reader.keeps_connection) == (body, False)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionResetError),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", CutOffError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", CutOffError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n", BadResponseError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n", BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", BadResponseError),
        (b"HTTP/1.1 2000 OK\r\n\r\n", BadResponseError),
        (b"ICY 200 OK\r\n\r\n", BadResponseError),
        (b"220 mail.example.com ESMTP\r\n", BadResponseError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_LIMIT, BadResponseError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * HEAD_LIMIT + b"00", BadResponseError),
    ],
)
def test_what_is_no_whole_response_is_an_error(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(raw, ends=True)


@pytest.mark.parametrize("form", [*KEPT.values(), lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body])
def test_more_than_the_limit_is_cut(form: object) -> None:
    response, reader = read(form(b"x" * 100), limit=10)  # type: ignore[operator]

    assert response is not None
    assert (response.body, response.is_cut, reader.keeps_connection) == (b"x" * 10, True, False)


def test_headers_are_read_by_name() -> None:
    raw = b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nretry-after : 7\r\nDate: a\r\n b\r\nX-No\r\nContent-Length: 0\r\n\r\n"
    response, _ = read(raw)

    assert response is not None
    assert response.headers["Retry-After"] == "1, 7"
    assert response.headers["date"] == "a b"
