"""Each source as `bridge doctor` finds it: does it response, take the key, and agree about the time of day."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from bridge.admin.rooms import TroubledSource
from bridge.cli.doctor.findings import Check, Finding, fail, ok, warn
from bridge.cli.output import from_now, span
from bridge.delivery.connect import SystemResolver
from bridge.rules.polling import Condition
from bridge.rules.presence import Failure, FailureKind
from bridge.runtime import Runtime
from bridge.service import open_source
from bridge.sources.checkup import Checkup
from bridge.sources.protocol import SourceSettings

PATIENCE: Final = timedelta(seconds=4)
"""How long an response may take here, if the source's own `timeout` is not shorter."""
SUSPICIOUS_SKEW: Final = timedelta(seconds=5)
WRONG_SKEW: Final = timedelta(minutes=5)
"""From when receivers refuse our signatures, and join times are not believed."""

_NETWORK: Final = "check base_url, and this machine's network, DNS and firewall"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedSource:
    """What was found; of one that does not response well, its rooms need not be asked for."""

    name: str
    is_well: bool
    findings: Sequence[Finding]


async def check_source(account: SourceSettings, runtime: Runtime) -> ExaminedSource:
    """Ask once, as polls do, for what takes a key but no room."""
    host = urlsplit(account.base_url).hostname or ""
    unresolved = await _unresolved(host)
    if unresolved is not None:
        lost = fail(Check.API_KEY, account.name, f"unreachable: dns ({host}: {unresolved})", _NETWORK)
        return ExaminedSource(name=account.name, is_well=False, findings=[lost])
    source = open_source(hurried(account), runtime)
    try:
        checkup = await source.check_up()
    finally:
        await source.aclose()
    found = [judge_answer(account.name, checkup), *_check_clock(account.name, host, checkup)]
    return ExaminedSource(name=account.name, is_well=checkup.failure is None, findings=found)


def hurried(account: SourceSettings) -> SourceSettings:
    """The same account for somebody who does not wait long."""
    return replace(account, timeout=min(account.timeout, PATIENCE))


def judge_answer(name: str, checkup: Checkup) -> Finding:
    """What an response, or its absence, says of the key and the way to it."""
    if checkup.failure is None:
        return ok(Check.API_KEY, name, f"accepted, answered within {span(checkup.duration)}")
    return _judge_failure(name, checkup.failure)


def judge_record(account: SourceSettings, troubled: Sequence[TroubledSource], now: datetime) -> Finding:
    """What the pollers think of the source: they leave alone what does not response."""
    trouble = next((one for one in troubled if one.name == account.name), None)
    if trouble is None:
        return ok(Check.SOURCE, account.name, "the pollers know of no trouble")
    since = "" if trouble.since is None else f" for {span(now - trouble.since)}"
    held = ""
    if trouble.paused_until is not None and trouble.paused_until > now:
        held = f", next try {from_now(trouble.paused_until, now)}"
    if trouble.condition is Condition.UNAUTHORIZED:
        advice = "if the key is accepted now, the pollers notice within a minute"
    else:
        advice = "if it answers well now, the pollers notice at the next try"
    return warn(Check.SOURCE, account.name, f"{trouble.condition}{since}{held}: its rooms are hardly polled", advice)


def _check_clock(name: str, host: str, checkup: Checkup) -> list[Finding]:
    skew = checkup.clock_skew
    if skew is None:
        return [] if checkup.failure else [ok(Check.CLOCK, name, f"not compared: {host} does not say its time")]
    if abs(skew) <= SUSPICIOUS_SKEW:
        return [ok(Check.CLOCK, name, f"agrees with {host}")]
    detail = f"this machine's clock is {span(abs(skew))} {'ahead of' if skew > timedelta() else 'behind'} {host}"
    tell = fail if abs(skew) > WRONG_SKEW else warn
    return [tell(Check.CLOCK, name, detail, "synchronize it with NTP: join times and signatures depend on it")]


def _judge_failure(name: str, failure: Failure) -> Finding:
    match failure.kind:
        case FailureKind.UNAUTHORIZED:
            advice = f"correct api_key under [sources.{name}]: it must be the key of the rooms' project"
            return fail(Check.API_KEY, name, f"key refused ({failure.status})", advice)
        case FailureKind.RATE_LIMITED:
            advice = f"lower requests_per_second under [sources.{name}], or stop whatever else uses the key"
            return warn(Check.API_KEY, name, f"too many requests (429){_retry(failure)}", advice)
        case FailureKind.SERVER_ERROR:
            return fail(Check.API_KEY, name, f"server error ({failure.status})", "wait: the fault is not here")
        case FailureKind.BAD_RESPONSE:
            return fail(Check.API_KEY, name, failure.detail, "check base_url: this is no response of Huddle01's")
        case FailureKind.TIMEOUT:
            return fail(Check.API_KEY, name, failure.detail, _NETWORK)
        case FailureKind.UNREACHABLE:
            return fail(Check.API_KEY, name, f"unreachable: {failure.detail.partition(':')[0]}", _NETWORK)


def _retry(failure: Failure) -> str:
    return "" if failure.retry_after is None else f", asks for a pause of {span(failure.retry_after)}"


async def _unresolved(host: str) -> str | None:
    """Why a name has no address. Looked up before the client does, whose lookups the program's end would wait for."""
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await SystemResolver().resolve(host)
    except TimeoutError:
        return "no response"
    except OSError as error:
        return error.strerror or "no address"
    return None
