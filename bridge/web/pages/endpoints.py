"""Pages of endpoints: health and backlog, and one with its latest attempts and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi.responses import Response

from bridge.admin.attempts import ListedAttempt
from bridge.admin.endpoints import ListedEndpoint
from bridge.admin.listing import Page
from bridge.admin.overview import read_endpoint, read_endpoints
from bridge.db.encryption import SecretCipher
from bridge.events.formats import Format
from bridge.rules.access import Scope
from bridge.rules.delivery import Circuit, Outcome
from bridge.web.auth import requires
from bridge.web.endpoints import Replay, replay
from bridge.web.pages.render import in_words
from bridge.web.pages.view import PageView, facts_of
from bridge.web.paging import After
from bridge.web.params import moment
from bridge.web.routing import api_router

SHOWN: Final = 50
ATTEMPTS_DRAWN: Final = 120
BAR: Final = 6.0
TALLEST: Final = 60.0
LEAST: Final = 2.0

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBar:
    """An attempt as a bar; its height is the duration."""

    x: float
    height: float
    delivered: bool
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptDrawing:
    """Attempts from the oldest to the newest."""

    bars: Sequence[AttemptBar]
    slowest: float
    width: float


@router.get("/endpoints")
async def show_endpoints(view: PageView, after: After = None) -> Response:
    """Endpoints with health and backlog."""
    listing, oldest = await view.state.database.read(read_endpoints, Page(limit=SHOWN, after=after))
    styles = [style.value for style in Format]
    return view.page(
        "endpoints.html", "Endpoints", endpoints=listing, oldest=oldest, condition=condition, styles=styles
    )


@router.get("/endpoints/{endpoint_id}")
async def show_one_endpoint(
    view: PageView, endpoint_id: str, replay_since: str | None = None, replay_failed: str = ""
) -> Response:
    """One endpoint; with `replay_since`, how many events a replay would send."""
    cipher, now = SecretCipher(view.state.settings().encryption_keys), view.state.runtime.now()
    found = await view.state.database.read(read_endpoint, endpoint_id, attempts=ATTEMPTS_DRAWN, cipher=cipher, now=now)
    return view.page(
        "endpoint.html",
        "Endpoints",
        endpoint=found.endpoint,
        drawing=draw_attempts(found.attempts),
        oldest=found.oldest_owed_at,
        condition=condition,
        replay=await _count_replay(view, endpoint_id, replay_since, failed=bool(replay_failed)),
    )


async def _count_replay(view: PageView, endpoint_id: str, since: str | None, *, failed: bool) -> dict[str, Any] | None:
    begin = moment(view.state, since or None, "query", "replay_since")
    if begin is None:
        return None
    body = Replay(since=begin.isoformat(), failed=failed, dry_run=True)
    response = await replay(view.state, endpoint_id, body)
    return {"count": facts_of(response)["count"], "since": begin, "failed": failed}


def condition(endpoint: ListedEndpoint) -> str:
    """Return the state of an endpoint in one word."""
    if endpoint.state != "active":
        return endpoint.state
    return "active" if endpoint.circuit == Circuit.CLOSED and endpoint.failing_since is None else "failing"


def draw_attempts(attempts: Sequence[ListedAttempt]) -> AttemptDrawing:
    """Draw attempts, which are given newest first."""
    slowest = max((attempt.duration_seconds for attempt in attempts), default=0.0)
    bars = [
        AttemptBar(
            x=number * BAR,
            height=round(max(LEAST, TALLEST * attempt.duration_seconds / slowest if slowest else 0.0), 1),
            delivered=attempt.outcome == Outcome.DELIVERED,
            title=f"{attempt.outcome} {attempt.status or ''} in {in_words(attempt.duration_seconds)}",
        )
        for number, attempt in enumerate(reversed(attempts))
    ]
    return AttemptDrawing(bars=bars, slowest=slowest, width=max(len(bars), 20) * BAR)
