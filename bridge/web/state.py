"""State that the handlers share; they get it as a parameter of type `State`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from bridge.config import Settings
from bridge.db.engine import Database
from bridge.metrics import Metrics
from bridge.runtime import Runtime
from bridge.web.limits import RateLimiter
from bridge.web.links import OneTimeLinks
from bridge.web.log_end import LogEnd
from bridge.web.scraper import Scraper
from bridge.web.seen_pokes import SeenPokes
from bridge.web.shared_results import SharedResults
from bridge.web.tail import EventTail
from bridge.web.verification import LogVerification
from bridge.web.viewers import Viewers


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """Everything that handlers need; `settings` returns the current ones, which a reload replaces."""

    database: Database
    runtime: Runtime
    settings: Callable[[], Settings]
    claim_token: Callable[[], AbstractContextManager[str]]
    """A token for a claim that a handler makes, as long as the block lasts."""
    tail: EventTail
    shared: SharedResults = field(default_factory=SharedResults)
    log_end: LogEnd = field(default_factory=LogEnd)
    links: OneTimeLinks = field(default_factory=OneTimeLinks)
    limiter: RateLimiter = field(default_factory=RateLimiter)
    metrics: Metrics = field(default_factory=Metrics)
    scraper: Scraper = field(default_factory=Scraper)
    wake_poller: Callable[[], None] = _nothing
    """Let the poller of this process, if it has one, claim what is due."""
    seen_pokes: SeenPokes = field(default_factory=SeenPokes)
    verification: LogVerification = field(default_factory=LogVerification)
    viewers: Viewers = field(default_factory=Viewers)


def state_of(request: Request) -> AppState:
    state: AppState = request.app.state.state
    return state


State = Annotated[AppState, Depends(state_of)]
