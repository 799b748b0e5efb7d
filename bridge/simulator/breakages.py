"""Faults in how an response arrives, and answers that something else gives in the upstream's place (upstream.md 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bridge.simulator.answers import (
    NO_SESSION,
    NOBODY_BYTES,
    TEXT_TYPE,
    UNAUTHORIZED,
    Manner,
    Response,
    page,
    refusal,
)
from bridge.simulator.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable

MOVED_TO = "/moved-away"
BODILESS = frozenset({204, 304})


def break_answer(response: Response, fault: Fault) -> Response:
    """The response as the fault leaves it; a fault of another sort leaves it alone."""
    breakage = BREAKAGES.get(fault.kind)
    return response if breakage is None else breakage(response, fault)


def _status(_response: Response, fault: Fault) -> Response:
    given = "body" in fault.model_fields_set
    if fault.status in BODILESS:
        response = Response(status=fault.status, raw=b"")
    elif given and isinstance(fault.body, str):
        raw = fault.body.encode("utf-8", "backslashreplace")
        response = Response(status=fault.status, raw=raw, content_type=TEXT_TYPE)
    elif given:
        response = Response(status=fault.status, document=fault.body)
    else:
        response = page(fault.status, f"Simulated {fault.status}")
    return replace(response, headers=fault.headers, content_type=fault.content_type or response.content_type)


def _truncated_json(response: Response, _fault: Fault) -> Response:
    return replace(response, raw=response.body[: len(response.body) // 2])


def _rate_limited(_response: Response, fault: Fault) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return replace(refusal(429, "Too Many Requests"), headers=headers)


def _redirect(_response: Response, _fault: Fault) -> Response:
    return replace(page(302, "Moved"), headers={"Location": MOVED_TO})


def _not_found_other_json(_response: Response, _fault: Fault) -> Response:
    return Response(status=404, document={"message": "No route matches this path", "code": "NOT_FOUND"})


def _no_session_as(other: Response) -> Callable[[Response, Fault], Response]:
    return lambda response, _fault: other if response is NO_SESSION else response


def _timeout(response: Response, fault: Fault) -> Response:
    return replace(response, manner=Manner.SILENT, silent_seconds=fault.seconds)


BREAKAGES: dict[FaultKind, Callable[[Response, Fault], Response]] = {
    FaultKind.STATUS: _status,
    FaultKind.HTML_200: lambda _response, _fault: page(200, "Welcome"),
    FaultKind.TRUNCATED_JSON: _truncated_json,
    FaultKind.NOT_JSON: lambda _response, _fault: Response(raw=b"upstream connect error"),
    FaultKind.TIMEOUT: _timeout,
    FaultKind.RESET: lambda response, _fault: replace(response, manner=Manner.RESET),
    FaultKind.CUT: lambda response, _fault: replace(response, manner=Manner.CUT),
    FaultKind.UNAUTHORIZED: lambda _response, _fault: UNAUTHORIZED,
    FaultKind.RATE_LIMITED: _rate_limited,
    FaultKind.NOT_FOUND_PAGE: lambda _response, _fault: page(404, "Not Found"),
    FaultKind.NOT_FOUND_OTHER_JSON: _not_found_other_json,
    FaultKind.NO_SESSION_412: _no_session_as(refusal(412, "No ongoing meeting found")),
    FaultKind.EMPTY_200: _no_session_as(Response(raw=NOBODY_BYTES)),
    FaultKind.REDIRECT: _redirect,
    FaultKind.OK_FALSE_200: lambda _response, _fault: refusal(200, "Something went wrong"),
}
