"""Faults in the response, and responses that a proxy gives in place of the upstream (upstream.md 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bridge.simulator.documents import NO_SESSION, UNAUTHORIZED, Response, encode, failure
from tests.faults.kinds import Fault, FaultKind

MOVED_TO = "/moved-away"
NO_BODY = frozenset({204, 304})
EMPTY_LIST = Response(raw=encode({"count": 0, "participants": []}))


def page(status: int, title: str) -> Response:
    """Return an HTML page of the kind that proxies send."""
    text = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Response(status=status, raw=text.encode(), content_type="text/html; charset=utf-8")


def _status(_truth: Response, fault: Fault) -> Response:
    match fault.body:
        case _ if fault.status in NO_BODY:
            response = Response(status=fault.status, raw=b"")
        case None:
            response = page(fault.status, f"Simulated {fault.status}")
        case str(text):
            response = Response(status=fault.status, raw=text.encode(), content_type="text/plain; charset=utf-8")
        case document:
            response = Response(status=fault.status, document=document)
    return replace(response, headers=fault.headers, content_type=fault.content_type or response.content_type)


def _rate_limited(_truth: Response, fault: Fault) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return replace(failure(429, "Too Many Requests"), headers=headers)


def _always(response: Response) -> Callable[[Response, Fault], Response]:
    return lambda _truth, _fault: response


def _no_session_as(response: Response) -> Callable[[Response, Fault], Response]:
    return lambda truth, _fault: response if truth == NO_SESSION else truth


RESPONSE_FAULTS: dict[FaultKind, Callable[[Response, Fault], Response]] = {
    FaultKind.STATUS: _status,
    FaultKind.HTML_200: _always(page(200, "Welcome")),
    FaultKind.TRUNCATED_JSON: lambda truth, _fault: replace(truth, raw=truth.body[: len(truth.body) // 2]),
    FaultKind.NOT_JSON: _always(Response(raw=b"upstream connect error")),
    FaultKind.UNAUTHORIZED: _always(UNAUTHORIZED),
    FaultKind.RATE_LIMITED: _rate_limited,
    FaultKind.NOT_FOUND_PAGE: _always(page(404, "Not Found")),
    FaultKind.NOT_FOUND_OTHER_JSON: _always(
        Response(status=404, document={"message": "No route matches this path", "code": "NOT_FOUND"})
    ),
    FaultKind.NO_SESSION_412: _no_session_as(failure(412, "No ongoing meeting found")),
    FaultKind.EMPTY_200: _no_session_as(EMPTY_LIST),
    FaultKind.REDIRECT: _always(replace(page(302, "Moved"), headers={"Location": MOVED_TO})),
    FaultKind.OK_FALSE_200: _always(failure(200, "Something went wrong")),
}
