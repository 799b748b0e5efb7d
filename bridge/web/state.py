"""State that the handlers share; they get it as a parameter of type `State`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from bridge.config import Settings
from bridge.db.engine import Database
from bridge.runtime import Runtime
from bridge.web.limits import RateLimiter
from bridge.web.log_end import LogEnd
from bridge.web.standing import SharedAnswers
from bridge.web.tail import EventTail


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """Everything that handlers need; `settings` returns the present ones, which a reload replaces."""

    database: Database
    runtime: Runtime
    settings: Callable[[], Settings]
    tail: EventTail
    claim_token: Callable[[], AbstractContextManager[str]]
    """A token for a claim that a handler makes, as long as the block lasts."""
    shared: SharedAnswers = field(default_factory=SharedAnswers)
    log_end: LogEnd = field(default_factory=LogEnd)
    limiter: RateLimiter = field(default_factory=RateLimiter)


def state_of(request: Request) -> AppState:
    state: AppState = request.app.state.state
    return state


State = Annotated[AppState, Depends(state_of)]
