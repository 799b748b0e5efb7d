"""Endpoints as people see them: a row of a table, or everything about one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo

from bridge.admin.attempts import ListedAttempt
from bridge.admin.endpoints import ListedEndpoint, ShownEndpoint
from bridge.cli.output import Column, count_of, from_now, full_time, print_facts, print_table, span
from bridge.config import Settings

_COLUMNS = (
    Column(title="name"),
    Column(title="url"),
    Column(title="events", wide=True),
    Column(title="rooms", wide=True),
    Column(title="style", wide=True),
    Column(title="state"),
    Column(title="owed"),
    Column(title="last success"),
)


def print_endpoints(found: Sequence[ListedEndpoint], now: datetime) -> None:
    """Print a table of endpoints."""
    print_table(
        _COLUMNS,
        [_cells(endpoint, now) for endpoint in found],
        empty="there is no endpoint: list them in the configuration and start the service, or `bridge endpoints add`",
    )


def _cells(endpoint: ListedEndpoint, now: datetime) -> Sequence[object]:
    return (
        endpoint.name,
        endpoint.url,
        endpoint.events,
        endpoint.rooms,
        endpoint.style,
        _state(endpoint),
        _backlog(endpoint),
        from_now(endpoint.last_success_at, now),
    )


def _state(endpoint: ListedEndpoint) -> str:
    if endpoint.state != "active":
        return f"{endpoint.state} ({endpoint.state_reason})" if endpoint.state_reason else endpoint.state
    return "active" if endpoint.circuit == "closed" else f"active, circuit {endpoint.circuit}"


def _backlog(endpoint: ListedEndpoint) -> str:
    if not endpoint.owed_events:
        return "nothing"
    return f"{count_of(endpoint.owed_events, 'event')} in {count_of(endpoint.owed_rooms, 'room')}"


def print_endpoint(endpoint: ShownEndpoint, settings: Settings, now: datetime) -> None:
    """Print everything about an endpoint; its secrets as they were asked for, hidden or not."""
    zone = settings.bridge.timezone
    timeout = settings.delivery.policy.timeout
    if endpoint.timeout_seconds is not None:
        timeout = timedelta(seconds=endpoint.timeout_seconds)
    facts: dict[str, object] = {
        "name": endpoint.name,
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "rooms": endpoint.rooms,
        "style": endpoint.style,
        "signature": endpoint.signature,
        "origin": endpoint.origin,
        "added": full_time(endpoint.created_at, zone),
        "limits": f"{endpoint.max_concurrency} at once, {_rate(endpoint.rate_per_second)}, {span(timeout)} each",
        "state": _state(endpoint),
        "owed": _backlog(endpoint),
        "dead letters": endpoint.dead_letters,
        "last success": from_now(endpoint.last_success_at, now),
        "failing since": full_time(endpoint.failing_since, zone),
        "failures": endpoint.failures_in_row,
        "held until": full_time(endpoint.paused_until, zone),
        "last attempt": _last_attempt(endpoint.last_attempt, now),
    }
    facts |= {f"header {name}": value for name, value in endpoint.headers.items()}
    print_facts(facts | _secrets(endpoint, zone))


def _last_attempt(attempt: ListedAttempt | None, now: datetime) -> str | None:
    if attempt is None:
        return None
    outcome = f"{attempt.outcome} {attempt.status or attempt.cause or ''} {attempt.detail}"
    return f"{from_now(attempt.started_at, now)}: {outcome}".rstrip()


def _rate(rate_per_second: float) -> str:
    return f"{rate_per_second:g} a second" if rate_per_second else "any assign_sequences a second"


def _secrets(endpoint: ShownEndpoint, zone: tzinfo) -> dict[str, object]:
    facts: dict[str, object] = {}
    for place, secret in enumerate(endpoint.secrets):
        title = "secret" if place == 0 else f"secret -{place}"
        until = "" if secret.expires_at is None else f" (until {full_time(secret.expires_at, zone)})"
        facts[title] = f"{secret.secret}{until}"
        if secret.public_key is not None:
            facts[title.replace("secret", "public key")] = secret.public_key
    return facts
