"""Certificates and clients for tests with real connections."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bridge.delivery.client import ClientLimits, WebhookClient
from bridge.rules.egress import EgressPolicy
from tests.harness.certificates import self_signed

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


@pytest.fixture
def loopback() -> EgressPolicy:
    return EgressPolicy(allow_private_networks=(ipaddress.ip_network("127.0.0.0/8"),))


@pytest.fixture
async def client(loopback: EgressPolicy) -> AsyncIterator[WebhookClient]:
    limits = ClientLimits(rest=timedelta(0))
    async with WebhookClient(loopback, user_agent="presence-bridge/test", clock=lambda: NOW, limits=limits) as client:
        yield client


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusting_tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)
