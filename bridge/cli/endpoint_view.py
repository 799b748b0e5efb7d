"""Endpoints as text: the rows of a table, everything about one, and the secret that a command has made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo

from bridge.admin.attempts import ListedAttempt
from bridge.admin.endpoints import ListedEndpoint, ShownEndpoint
from bridge.cli.output import Column, from_now, full_time, print_facts, print_json, print_line, print_message
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.errors import BridgeError
from bridge.events.wording import count_of, span

COLUMNS = (
    Column(title="NAME"),
    Column(title="URL"),
    Column(title="EVENTS", wide=True),
    Column(title="ROOMS", wide=True),
    Column(title="STYLE", wide=True),
    Column(title="STATE"),
    Column(title="BACKLOG"),
    Column(title="LAST SUCCESS"),
)


def endpoint_cells(endpoint: ListedEndpoint, now: datetime) -> Sequence[object]:
    """Return the cells of `COLUMNS`."""
    return (
        *(endpoint.name, endpoint.url, endpoint.events, endpoint.rooms, endpoint.style),
        *(_state(endpoint), _backlog(endpoint), from_now(endpoint.last_success_at, now)),
    )


def print_endpoint(endpoint: ShownEndpoint, settings: Settings, now: datetime) -> None:
    """Print everything about an endpoint."""
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
        "rate": f"{endpoint.rate_per_second:g} per second" if endpoint.rate_per_second else "unlimited",
        "concurrency": endpoint.max_concurrency,
        "timeout": span(timeout),
        "state": _state(endpoint),
        "backlog": _backlog(endpoint),
        "dead letters": endpoint.dead_letters,
        "last success": from_now(endpoint.last_success_at, now),
        "failing since": full_time(endpoint.failing_since, zone),
        "failures in a row": endpoint.failures_in_row,
        "paused until": full_time(endpoint.paused_until, zone),
        "last attempt": _last_attempt(endpoint.last_attempt, now),
    }
    facts |= {f"header {name}": value for name, value in endpoint.headers.items()}
    print_facts(facts | _secrets(endpoint, zone))


def print_secret(endpoint: ShownEndpoint, secret: str | None, *, as_json: bool) -> None:
    """Print a secret that was just made (None if it was given); as JSON together with the endpoint's id and name.

    Raises:
        BridgeError: it could not be printed; it is stored, and making another one would not help.
    """
    try:
        if as_json:
            public_key = endpoint.secrets[0].public_key
            print_json({"id": endpoint.id, "name": endpoint.name, "secret": secret, "public_key": public_key})
        elif secret is not None:
            print_line(secret)
        sys.stdout.flush()
    except OSError as error:
        raise BridgeError(
            f"endpoint {quoted(endpoint.name)} has its new secret, but that could not be printed "
            f"({(error.strerror or str(error)).lower()}): see `bridge endpoints show {endpoint.name} --reveal`"
        ) from None


def print_receiver_needs(endpoint: ShownEndpoint) -> None:
    """Name what the receiver needs to verify signatures: the public key if there is one, else the secret itself."""
    public_key = endpoint.secrets[0].public_key
    if public_key is None:
        print_message("give the secret to the receiver")
    else:
        print_message(f"keep the secret; give the receiver the public key: {public_key}")


def _state(endpoint: ListedEndpoint) -> str:
    if endpoint.state != "active":
        return f"{endpoint.state} ({endpoint.state_reason})" if endpoint.state_reason else endpoint.state
    return "active" if endpoint.circuit == "closed" else f"active, circuit {endpoint.circuit}"


def _backlog(endpoint: ListedEndpoint) -> str:
    if not endpoint.owed_events:
        return "none"
    return f"{count_of(endpoint.owed_events, 'event')} in {count_of(endpoint.owed_rooms, 'room')}"


def _last_attempt(attempt: ListedAttempt | None, now: datetime) -> str | None:
    if attempt is None:
        return None
    outcome = f"{attempt.outcome} {attempt.status or attempt.cause or ''} {attempt.detail}"
    return f"{from_now(attempt.started_at, now)}: {outcome}".rstrip()


def _secrets(endpoint: ShownEndpoint, zone: tzinfo) -> dict[str, object]:
    facts: dict[str, object] = {}
    for age, secret in enumerate(endpoint.secrets):
        suffix = "" if age == 0 else f" (old {age})"
        until = "" if secret.expires_at is None else f" (until {full_time(secret.expires_at, zone)})"
        facts[f"secret{suffix}"] = f"{secret.secret}{until}"
        if secret.public_key is not None:
            facts[f"public key{suffix}"] = secret.public_key
    return facts
