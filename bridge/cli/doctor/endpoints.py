"""Each endpoint as `bridge doctor` finds it: what it is owed, and whether a delivery would find its way there.

The way is the one that deliveries go, up to the TLS handshake: the same guard, the same DNS, only addresses that it
let through. No HTTP request is sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bridge.admin.endpoints import ListedEndpoint
from bridge.admin.inventory import Stock
from bridge.cli.doctor.findings import Check, Finding, fail, ok, warn
from bridge.cli.output import count_of, span
from bridge.config import Settings
from bridge.delivery.connect import UnresolvedNameError, check_endpoint, os_reason
from bridge.errors import ForbiddenAddressError
from bridge.rules.delivery import Circuit, DisableReason
from bridge.rules.egress import Destination, EgressPolicy, check_url

SECONDS: Final = 4
"""For one endpoint, from DNS to the end of the handshake."""
SECONDS_FOR_ALL: Final = 7
AT_ONCE: Final = 32
EXPIRES_SOON: Final = timedelta(days=14)
LATE: Final = timedelta(minutes=5)
"""From when what is owed to an endpoint that takes deliveries lacks a sender."""

_ENABLE: Final = "when the receiver is well: `bridge endpoints enable {}`, and its backlog is delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """An endpoint; `listed` is None while only the configuration knows it."""

    name: str
    url: str
    enabled: bool
    listed: ListedEndpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """A connection that was made, and closed; without TLS nothing expires."""

    address: str
    protocol: str | None = None
    expires_at: datetime | None = None


def known_endpoints(settings: Settings, stock: Stock | None) -> list[Subscriber]:
    """Every endpoint that there is, or will be when the service takes up the configuration."""
    listed = {} if stock is None else {endpoint.name: endpoint for endpoint in stock.endpoints}
    known = {
        name: Subscriber(name=name, url=endpoint.url, enabled=endpoint.state == "active", listed=endpoint)
        for name, endpoint in listed.items()
    }
    for spec in settings.endpoints:
        stored = listed.get(spec.name)
        enabled = spec.enabled if stored is None else known[spec.name].enabled
        known[spec.name] = Subscriber(name=spec.name, url=spec.url, enabled=enabled, listed=stored)
    return [known[name] for name in sorted(known)]


async def check_endpoints(settings: Settings, stock: Stock | None, now: datetime) -> list[Finding]:
    """Judge every endpoint's record, and try the way to it."""
    subscribers = known_endpoints(settings, stock)
    owed_since = {} if stock is None else stock.owed_since
    slots = asyncio.Semaphore(AT_ONCE)
    policy = settings.delivery.egress
    ways = await asyncio.gather(*(_check_in_time(one, policy, now, slots) for one in subscribers))
    states = [judge_record(one, owed_since, now) for one in subscribers]
    return [finding for pair in zip(states, ways, strict=True) for finding in pair]


def judge_record(subscriber: Subscriber, owed_since: Mapping[str, datetime], now: datetime) -> Finding:
    """How deliveries to it have gone."""
    name, listed = subscriber.name, subscriber.listed
    if listed is None:
        detail = "new: taken up when the service starts or reloads"
        return ok(Check.ENDPOINT, name, detail if subscriber.enabled else "new, and disabled")
    since = owed_since.get(name)
    owed = _owed(listed, since, now)
    if listed.state != "active":
        by_itself = listed.state_reason in tuple(DisableReason)
        detail = f"disabled ({listed.state_reason}), {owed}"
        return (fail if by_itself else warn)(Check.ENDPOINT, name, detail, _ENABLE.format(name))
    if listed.failing_since is not None:
        is_open = listed.circuit == Circuit.OPEN
        detail = f"{'circuit open, ' if is_open else ''}failing{_since(listed.failing_since, now)}, {owed}"
        advice = f"see `bridge deliveries list --endpoint {name}`"
        return (fail if is_open else warn)(Check.ENDPOINT, name, detail, advice)
    if since is not None and now - since > LATE:
        return warn(Check.ENDPOINT, name, owed, "is a sender running? `bridge run`, or `bridge run --role sender`")
    return ok(Check.ENDPOINT, name, f"active, {owed}")


async def check_way(subscriber: Subscriber, policy: EgressPolicy, now: datetime) -> Finding:
    """Go as far as a delivery would before it sends anything. Paths are not shown: some hold a token."""
    try:
        destination = check_url(subscriber.url, policy)
        addresses = await check_endpoint(subscriber.url, policy)
    except ForbiddenAddressError as error:
        problem, _, advice = str(error).partition(": ")
        return _bad(subscriber, f"blocked: {problem}", advice)
    except UnresolvedNameError as error:
        problem, _, advice = str(error).partition(": ")
        return _bad(subscriber, f"dns: {problem}", advice)
    where = f"{destination.host}:{destination.port}"
    try:
        handshake = await _first([dial(address, destination) for address in addresses])
    except ssl.SSLError as error:
        return _bad(
            subscriber, f"tls: {where}: {_tls_reason(error)}", "the receiver's certificate or TLS must be mended"
        )
    except OSError as error:
        return _bad(subscriber, f"connect: {where}: {os_reason(error)}", "is the receiver running, and its port open?")
    return judge_handshake(subscriber.name, where, handshake, now)


def judge_handshake(name: str, where: str, handshake: Handshake, now: datetime) -> Finding:
    """A connection that can be made, as long as the certificate lasts."""
    if handshake.expires_at is None:
        return ok(Check.CONNECTION, name, f"{where} answers, without TLS")
    left = handshake.expires_at - now
    detail = f"{where}, {handshake.protocol}, certificate for another {span(left)}"
    if left < EXPIRES_SOON:
        return warn(Check.CONNECTION, name, detail, "the receiver's certificate must be renewed")
    return ok(Check.CONNECTION, name, detail)


async def dial(address: str, destination: Destination) -> Handshake:
    """Connect to one of the addresses that the guard let through, and hang up.

    Raises:
        OSError: there is no connection; an SSLError if there is, but not a trusted one.
    """
    tls = ssl.create_default_context() if destination.scheme == "https" else None
    _, writer = await asyncio.open_connection(
        address, destination.port, ssl=tls, server_hostname=None if tls is None else destination.host.rstrip(".")
    )
    try:
        if tls is None:
            return Handshake(address=address)
        certificate = writer.get_extra_info("peercert")
        expires_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
        protocol: str = writer.get_extra_info("ssl_object").version()
        return Handshake(address=address, protocol=protocol, expires_at=expires_at)
    finally:
        writer.transport.abort()


async def _first(dials: Sequence[Coroutine[Any, Any, Handshake]]) -> Handshake:
    """The first connection that is made, as deliveries race addresses; the first error if none is."""
    tasks = [asyncio.ensure_future(dial) for dial in dials]
    failure: OSError | None = None
    try:
        for done in asyncio.as_completed(tasks):
            try:
                return await done
            except OSError as error:
                failure = failure or error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise failure or OSError("no address")


async def _check_in_time(
    subscriber: Subscriber, policy: EgressPolicy, now: datetime, slots: asyncio.Semaphore
) -> Finding:
    """One response for each endpoint, however many there are, and however many of them hang."""
    is_begun = False
    try:
        async with asyncio.timeout(SECONDS_FOR_ALL), slots, asyncio.timeout(SECONDS):
            is_begun = True
            return await check_way(subscriber, policy, now)
    except TimeoutError:
        if is_begun:
            return _bad(subscriber, f"timeout: no connection within {SECONDS} s", "is there a firewall in between?")
        return warn(
            Check.CONNECTION, subscriber.name, "not tried: too many others hang", "read_health into those first"
        )


def _bad(subscriber: Subscriber, detail: str, advice: str) -> Finding:
    """No way to an endpoint that is disabled is no failure: nothing would be sent there."""
    tell = fail if subscriber.enabled else warn
    return tell(Check.CONNECTION, subscriber.name, detail, advice)


def _owed(listed: ListedEndpoint, since: datetime | None, now: datetime) -> str:
    if not listed.owed_events:
        return "nothing owed"
    return f"{count_of(listed.owed_events, 'event')} owed{_since(since, now)}"


def _since(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f" for {span(now - moment)}"


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "handshake failed").replace("_", " ").lower()
