"""Checks of the sources (reachable, API key accepted, clock) and of the rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import groupby
from typing import Final
from urllib.parse import urlsplit

from bridge.admin.read_only import Records, RoomRecord
from bridge.cli.doctor.findings import Check, Finding, State, fail, ok, warn
from bridge.cli.output import from_now
from bridge.config import Settings
from bridge.events.wording import count_of, span
from bridge.resolver import SystemResolver
from bridge.rules.presence import Failure, FailureKind
from bridge.runtime import Runtime
from bridge.sources.checkup import Checkup
from bridge.sources.kinds import open_source
from bridge.sources.protocol import Source, SourceSettings

TIMEOUT: Final = timedelta(seconds=4)
"""Of a request, if the source's own `timeout` is not shorter."""
SKEW_TO_WARN: Final = timedelta(seconds=5)
SKEW_TO_FAIL: Final = timedelta(minutes=5)
"""From here on receivers reject our signatures, and join times are not believed."""
LISTED_ROOMS: Final = 20
"""With more rooms than this, they are counted, and only the first of those that need attention are named."""
NAMED_ROOMS: Final = 5
LASTING_FAILURES: Final = 5

_NETWORK: Final = "check base_url, and the network, DNS and firewall of this machine"
_NEVER_LIVE: Final = "never seen live; the upstream responds the same for an unknown id"


class _Kind(Enum):
    """The result for a room: state, the text when rooms are counted, advice."""

    FAILING = State.FAIL, "cannot be polled", "see `bridge rooms show ROOM`; the presence in it is not known"
    FAILED = State.WARN, "last poll failed", "if it goes on, see `bridge rooms show ROOM`"
    NO_SOURCE = State.FAIL, "source missing", "add the source to the configuration, or `bridge rooms remove ROOM`"
    NEVER_LIVE = State.WARN, _NEVER_LIVE, "compare the id, and the project of the API key"
    NOT_POLLED = State.WARN, "not polled yet", "start the service: `bridge run`"
    DISABLED = State.OK, "disabled", None
    POLLED = State.OK, "polled", None

    def __init__(self, state: State, label: str, advice: str | None) -> None:
        self.state = state
        self.label = label
        self.advice = advice


_Result = tuple[RoomRecord, _Kind, str]
"""A room, the kind of result, and details."""


async def check_upstream(settings: Settings, records: Records | None, runtime: Runtime) -> list[Finding]:
    """Check every source, and every room that is stored or will be when the service loads the configuration.

    A room that was polled is rated by its record. The others are polled now, if there are few rooms and the key is
    accepted.
    """
    rooms = _known_rooms(settings, records)
    new = [room for room in rooms if room.enabled and room.polled_at is None] if len(rooms) <= LISTED_ROOMS else []
    checks = await asyncio.gather(*(_check_source(account, new, runtime) for account in settings.sources))
    polled = {(result[0].source, result[0].room_id): result for _, results in checks for result in results}
    configured = {account.name for account in settings.sources}
    results = [polled.get((room.source, room.room_id)) or _rate(room, configured, runtime.now()) for room in rooms]
    sources = [finding for findings, _ in checks for finding in findings]
    return sources + (_count(results) if len(results) > LISTED_ROOMS else _list(results, settings))


async def _check_source(
    account: SourceSettings, new_rooms: Sequence[RoomRecord], runtime: Runtime
) -> tuple[list[Finding], list[_Result]]:
    """Send a request that needs the key and no room; if the key is accepted, poll the source's new rooms."""
    name, host = account.name, urlsplit(account.base_url).hostname or ""
    if (reason := await _dns_problem(host)) is not None:
        return [fail(Check.API_KEY, name, f"unreachable: dns ({host}: {reason})", _NETWORK)], []
    source = open_source(replace(account, timeout=min(account.timeout, TIMEOUT)), runtime.now)
    try:
        checkup = await source.check_up()
        rooms = [] if checkup.failure else [room for room in new_rooms if room.source == name]
        results = await asyncio.gather(*(_poll_room(room, source) for room in rooms))
    finally:
        await source.aclose()
    return [_check_key(account, checkup), *_check_clock(name, host, checkup)], results


async def _dns_problem(host: str) -> str | None:
    """Look the name up before the client does, whose lookups cannot be abandoned when the program ends."""
    try:
        async with asyncio.timeout(TIMEOUT.total_seconds()):
            await SystemResolver().resolve(host, 0)
    except TimeoutError:
        return "no response"
    except OSError as error:
        return error.strerror or "no address"
    return None


def _check_key(account: SourceSettings, checkup: Checkup) -> Finding:
    name = account.name
    if checkup.failure is None:
        return ok(Check.API_KEY, name, f"accepted, response after {span(checkup.duration)}")
    detail, advice = _explain(account, checkup.failure)
    rated = warn if checkup.failure.kind is FailureKind.RATE_LIMITED else fail
    return rated(Check.API_KEY, name, detail, advice)


def _explain(account: SourceSettings, failure: Failure) -> tuple[str, str]:
    """Return what went wrong, and what to do."""
    name = account.name
    match failure.kind:
        case FailureKind.UNAUTHORIZED:
            keys = "api_key and api_secret" if account.api_secret else "api_key"
            advice = f"correct {keys} under [sources.{name}]: it must be the key of the rooms' project"
            return f"key refused ({failure.status})", advice
        case FailureKind.RATE_LIMITED:
            pause = "" if failure.retry_after is None else f", Retry-After is {span(failure.retry_after)}"
            advice = f"lower requests_per_second under [sources.{name}], or stop other programs that use the key"
            return f"too many requests (429){pause}", advice
        case FailureKind.SERVER_ERROR:
            return f"server error ({failure.status})", "wait: the fault is at the source"
        case FailureKind.BAD_RESPONSE:
            return failure.detail, "check base_url: this is not a response of the API"
        case FailureKind.TIMEOUT:
            return failure.detail, _NETWORK
        case FailureKind.UNREACHABLE:
            return f"unreachable: {failure.detail.partition(':')[0]}", _NETWORK


def _check_clock(name: str, host: str, checkup: Checkup) -> list[Finding]:
    skew = checkup.clock_skew
    if skew is None:
        return [] if checkup.failure else [ok(Check.CLOCK, name, f"not compared: {host} sends no date")]
    if abs(skew) <= SKEW_TO_WARN:
        return [ok(Check.CLOCK, name, f"agrees with {host}")]
    detail = f"the clock of this machine is {span(abs(skew))} {'ahead of' if skew > timedelta() else 'behind'} {host}"
    rated = fail if abs(skew) > SKEW_TO_FAIL else warn
    return [rated(Check.CLOCK, name, detail, "synchronize it with NTP: join times and signatures depend on it")]


def _known_rooms(settings: Settings, records: Records | None) -> list[RoomRecord]:
    stored = () if records is None else records.rooms
    known = {(record.source, record.room_id) for record in stored}
    fresh = [spec for spec in settings.rooms if (spec.source, spec.upstream_id) not in known]
    return [
        *stored,
        *(RoomRecord(source=spec.source, room_id=spec.upstream_id, enabled=spec.enabled) for spec in fresh),
    ]


def _rate(room: RoomRecord, configured: Collection[str], now: datetime) -> _Result:
    polled = f"polled {from_now(room.polled_at, now)}"
    if not room.enabled:
        return room, _Kind.DISABLED, "disabled, not polled"
    if room.source not in configured:
        return room, _Kind.NO_SOURCE, f"source {room.source} is not in the configuration, so it cannot be polled"
    if room.polled_at is None:
        return room, _Kind.NOT_POLLED, "not polled yet"
    if room.failures:
        kind = _Kind.FAILING if room.failures >= LASTING_FAILURES else _Kind.FAILED
        last = f"last complete snapshot {from_now(room.complete_at, now)}"
        if room.complete_at is None:
            last = "no complete snapshot yet"
        failures = f"{count_of(room.failures, 'failure')} in a row: {room.last_failure}"
        return room, kind, f"{last}, {failures}"
    if not room.was_live:
        return room, _Kind.NEVER_LIVE, f"{_NEVER_LIVE}; {polled}"
    return room, _Kind.POLLED, polled


async def _poll_room(room: RoomRecord, source: Source) -> _Result:
    response = await source.fetch(room.room_id)
    if isinstance(response, Failure):
        return room, _Kind.FAILED, f"{response.kind}: {response.detail}"
    if not response.peers:
        return room, _Kind.NEVER_LIVE, f"not polled before; {_NEVER_LIVE}"
    return room, _Kind.POLLED, f"not polled before; live now, {count_of(len(response.peers), 'peer')}"


def _list(results: Sequence[_Result], settings: Settings) -> list[Finding]:
    several = len(settings.sources) > 1
    return [
        _finding(kind, f"{room.source}/{room.room_id}" if several else room.room_id, detail)
        for room, kind, detail in results
    ]


def _count(results: Sequence[_Result]) -> list[Finding]:
    """Return one finding for each kind of result."""
    order = list(_Kind)
    findings = []
    for kind, group in groupby(sorted(results, key=lambda each: order.index(each[1])), key=lambda each: each[1]):
        ids = [room.room_id for room, _, _ in group]
        named = f": {', '.join(ids[:NAMED_ROOMS])}" if kind.state is not State.OK else ""
        more = f" and {len(ids) - NAMED_ROOMS:,} more" if named and len(ids) > NAMED_ROOMS else ""
        findings.append(_finding(kind, count_of(len(ids), "room"), f"{kind.label}{named}{more}"))
    return findings


def _finding(kind: _Kind, subject: str, detail: str) -> Finding:
    return Finding(check=Check.ROOM, subject=subject, state=kind.state, detail=detail, advice=kind.advice)
