"""Faults in how an answer arrives, and answers that something else gives in the upstream's place (upstream.md 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bridge.simulator.answers import (
    NO_SESSION,
    NOBODY_BYTES,
    TEXT_TYPE,
    UNAUTHORIZED,
    Answer,
    Manner,
    page,
    refusal,
)
from bridge.simulator.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable

MOVED_TO = "/moved-away"
BODILESS = frozenset({204, 304})


def break_answer(answer: Answer, fault: Fault) -> Answer:
    """The answer as the fault leaves it; a fault of another sort leaves it alone."""
    breakage = BREAKAGES.get(fault.kind)
    return answer if breakage is None else breakage(answer, fault)


def _status(_answer: Answer, fault: Fault) -> Answer:
    given = "body" in fault.model_fields_set
    if fault.status in BODILESS:
        answer = Answer(status=fault.status, raw=b"")
    elif given and isinstance(fault.body, str):
        raw = fault.body.encode("utf-8", "backslashreplace")
        answer = Answer(status=fault.status, raw=raw, content_type=TEXT_TYPE)
    elif given:
        answer = Answer(status=fault.status, document=fault.body)
    else:
        answer = page(fault.status, f"Simulated {fault.status}")
    return replace(answer, headers=fault.headers, content_type=fault.content_type or answer.content_type)


def _truncated_json(answer: Answer, _fault: Fault) -> Answer:
    return replace(answer, raw=answer.body[: len(answer.body) // 2])


def _rate_limited(_answer: Answer, fault: Fault) -> Answer:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return replace(refusal(429, "Too Many Requests"), headers=headers)


def _redirect(_answer: Answer, _fault: Fault) -> Answer:
    return replace(page(302, "Moved"), headers={"Location": MOVED_TO})


def _not_found_other_json(_answer: Answer, _fault: Fault) -> Answer:
    return Answer(status=404, document={"message": "No route matches this path", "code": "NOT_FOUND"})


def _no_session_as(other: Answer) -> Callable[[Answer, Fault], Answer]:
    return lambda answer, _fault: other if answer is NO_SESSION else answer


def _timeout(answer: Answer, fault: Fault) -> Answer:
    return replace(answer, manner=Manner.SILENT, silent_seconds=fault.seconds)


BREAKAGES: dict[FaultKind, Callable[[Answer, Fault], Answer]] = {
    FaultKind.STATUS: _status,
    FaultKind.HTML_200: lambda _answer, _fault: page(200, "Welcome"),
    FaultKind.TRUNCATED_JSON: _truncated_json,
    FaultKind.NOT_JSON: lambda _answer, _fault: Answer(raw=b"upstream connect error"),
    FaultKind.TIMEOUT: _timeout,
    FaultKind.RESET: lambda answer, _fault: replace(answer, manner=Manner.RESET),
    FaultKind.CUT: lambda answer, _fault: replace(answer, manner=Manner.CUT),
    FaultKind.UNAUTHORIZED: lambda _answer, _fault: UNAUTHORIZED,
    FaultKind.RATE_LIMITED: _rate_limited,
    FaultKind.NOT_FOUND_PAGE: lambda _answer, _fault: page(404, "Not Found"),
    FaultKind.NOT_FOUND_OTHER_JSON: _not_found_other_json,
    FaultKind.NO_SESSION_412: _no_session_as(refusal(412, "No ongoing meeting found")),
    FaultKind.EMPTY_200: _no_session_as(Answer(raw=NOBODY_BYTES)),
    FaultKind.REDIRECT: _redirect,
    FaultKind.OK_FALSE_200: lambda _answer, _fault: refusal(200, "Something went wrong"),
}
