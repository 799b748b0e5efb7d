"""Checks of the endpoints: allowed address, DNS, connection, TLS certificate.

They go as far as a delivery does before it sends its request: the same egress rules, the same DNS, and only addresses
that the rules allow. No request is sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bridge.admin.read_only import EndpointRecord, Records
from bridge.cli.doctor.findings import Check, Finding, fail, ok, warn
from bridge.config import Settings
from bridge.delivery.connect import UnresolvedNameError, check_endpoint
from bridge.errors import ForbiddenAddressError
from bridge.events.wording import span
from bridge.resolver import os_reason
from bridge.rules.egress import Destination, EgressPolicy, check_url

SECONDS: Final = 4
"""For one endpoint, from DNS to the end of the handshake."""
SECONDS_IN_ALL: Final = 7
CONCURRENCY: Final = 32
EXPIRES_SOON: Final = timedelta(days=14)

Certificate = tuple[str | None, datetime]
"""The version of TLS, and the end of the certificate."""


async def check_endpoints(settings: Settings, records: Records | None, now: datetime) -> list[Finding]:
    """Check every endpoint that is stored, or will be when the service loads the configuration."""
    known = {} if records is None else {endpoint.name: endpoint for endpoint in records.endpoints}
    for spec in settings.endpoints:
        enabled = known[spec.name].enabled if spec.name in known else spec.enabled
        known[spec.name] = EndpointRecord(name=spec.name, url=spec.url, enabled=enabled)
    slots = asyncio.Semaphore(CONCURRENCY)
    policy = settings.delivery.egress
    return await asyncio.gather(*(_check_in_time(known[name], policy, now, slots) for name in sorted(known)))


async def _check_in_time(
    endpoint: EndpointRecord, policy: EgressPolicy, now: datetime, slots: asyncio.Semaphore
) -> Finding:
    is_begun = False
    try:
        async with asyncio.timeout(SECONDS_IN_ALL), slots, asyncio.timeout(SECONDS):
            is_begun = True
            return await _check_endpoint(endpoint, policy, now)
    except TimeoutError:
        if is_begun:
            return _unreachable(endpoint, f"timeout: no connection within {SECONDS} s", "look for a firewall between")
        return warn(Check.ENDPOINT, endpoint.name, "not tried: too many others time out", "look into those first")


async def _check_endpoint(endpoint: EndpointRecord, policy: EgressPolicy, now: datetime) -> Finding:
    """Connect as a delivery would. Paths are not shown, because they may contain a token."""
    try:
        destination = check_url(endpoint.url, policy)
        addresses = await check_endpoint(endpoint.url, policy)
    except (ForbiddenAddressError, UnresolvedNameError) as error:
        problem, _, advice = str(error).partition(": ")
        kind = "blocked" if isinstance(error, ForbiddenAddressError) else "dns"
        return _unreachable(endpoint, f"{kind}: {problem}", advice)
    where = f"{destination.host}:{destination.port}"
    try:
        certificate = await _first([_connect(address, destination) for address in addresses])
    except ssl.SSLError as error:
        return _unreachable(
            endpoint, f"tls: {where}: {_tls_reason(error)}", "correct the receiver's TLS or certificate"
        )
    except OSError as error:
        return _unreachable(endpoint, f"connect: {where}: {os_reason(error)}", "start the receiver, or open its port")
    if certificate is None:
        return ok(Check.ENDPOINT, endpoint.name, f"{where} accepts connections, without TLS")
    version, expires_at = certificate
    detail = f"{where}, {version}, certificate valid for another {span(expires_at - now)}"
    if expires_at - now < EXPIRES_SOON:
        return warn(Check.ENDPOINT, endpoint.name, detail, "renew the receiver's certificate")
    return ok(Check.ENDPOINT, endpoint.name, detail)


async def _connect(address: str, destination: Destination) -> Certificate | None:
    """Connect to an allowed address and close the connection.

    Raises:
        OSError: there is no connection; an SSLError if there is none that can be trusted.
    """
    tls = ssl.create_default_context() if destination.scheme == "https" else None
    _, writer = await asyncio.open_connection(
        address, destination.port, ssl=tls, server_hostname=None if tls is None else destination.host.rstrip(".")
    )
    try:
        if tls is None:
            return None
        not_after = writer.get_extra_info("peercert")["notAfter"]
        version: str | None = writer.get_extra_info("ssl_object").version()
        return version, datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)
    finally:
        writer.transport.abort()


async def _first(attempts: Sequence[Coroutine[Any, Any, Certificate | None]]) -> Certificate | None:
    """Return the first connection that is made, as deliveries race addresses; else raise the first error."""
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
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


def _unreachable(endpoint: EndpointRecord, detail: str, advice: str) -> Finding:
    """A disabled endpoint gets a warning only: nothing would be sent to it."""
    return (fail if endpoint.enabled else warn)(Check.ENDPOINT, endpoint.name, detail, advice)


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "handshake failed").replace("_", " ").lower()
