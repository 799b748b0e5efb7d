"""The settings that the rest of the bridge works with: every key, and the defaults."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from bridge.config import ListenAddress, Settings, load
from bridge.delivery.endpoints import EndpointSpec
from bridge.polling.plan import PollingSettings
from bridge.polling.rooms import RoomSpec
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.egress import EgressPolicy
from bridge.rules.presence import FirstSnapshot, PresencePolicy
from bridge.sources.protocol import SourceSettings
from tests.config.conftest import LoadText

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHSK = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="

EVERYTHING = """\
[bridge]
name = "Acme rooms"
timezone = "Asia/Tokyo"
shutdown_grace = "0s"

[database]
url = "postgresql://user:password@host/name"

[sources.main]
kind = "huddle01"
base_url = "http://127.0.0.1:9000/api/v2/sdk/"
api_key = "env:HUDDLE01_API_KEY"
timeout = "4s"
max_concurrency = 3
requests_per_second = 0

[sources.second]
api_key = "other"

[polling]
interval = "250ms"
leave_after_missed = 2
first_snapshot = "baseline"

[[rooms]]
id = "abc-defg-hij"
name = "Weekly stand-up"
source = "main"
interval = "5s"
leave_after_missed = 3
enabled = false

[[rooms]]
id = "Räume/?"
source = "second"

[[endpoints]]
name = "crm"
url = "https://crm.example.com/hooks/presence"
secret = "env:CRM_WEBHOOK_SECRET"
events = ["peer.*", "room.empty"]
rooms = ["abc-*"]
style = "flat"
headers = { X-Auth = "env:X" }
rate_per_second = 2
max_concurrency = 1
timeout = "3s"
enabled = false

[[endpoints]]
name = "signed"
url = "http://[fd00::1]:8000/"
signature = "v1a"
secret = "env:SIGNED_SECRET"

[[endpoints]]
name = "sdk"
url = "https://sdk.example.com"
style = "huddle01"
secret = "any text"

[delivery]
timeout = "5s"
retry_schedule = ["1s", 2]
refused_schedule = []
disable_after = "1d"
rotation_grace = 0
allow_http = true
allow_private_networks = ["127.0.0.0/8", "fd00::/8", "10.0.0.1"]

[web]
listen = "127.0.0.2:80"

[retention]
attempts = "1d"

[log]
format = "json"
level = "debug"
"""


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.fixture
def everything(load_text: LoadText) -> Settings:
    env = {"HUDDLE01_API_KEY": "key", "CRM_WEBHOOK_SECRET": WHSEC, "SIGNED_SECRET": WHSK, "X": "y"}
    return load_text(EVERYTHING, env)


def test_every_simple_key_arrives(everything: Settings) -> None:
    assert (everything.bridge.name, everything.bridge.timezone) == ("Acme rooms", ZoneInfo("Asia/Tokyo"))
    assert everything.bridge.shutdown_grace == seconds(0)
    assert everything.database.url == "postgresql://user:password@host/name"
    assert everything.web.listen == ListenAddress(host="127.0.0.2", port=80)
    assert everything.retention.attempts == timedelta(days=1)
    assert (everything.log.format, everything.log.level) == ("json", "debug")


def test_every_key_of_sources_rooms_and_polling_arrives(everything: Settings) -> None:
    assert everything.sources == (
        SourceSettings(
            name="main",
            kind="huddle01",
            base_url="http://127.0.0.1:9000/api/v2/sdk",
            api_key="key",
            timeout=seconds(4),
            max_concurrency=3,
            requests_per_second=0,
        ),
        SourceSettings(name="second", kind="huddle01", base_url="https://api.huddle01.com/api/v2/sdk", api_key="other"),
    )
    assert everything.polling == PollingSettings(
        interval=seconds(0.25), policy=PresencePolicy(leave_after_missed=2, first_snapshot=FirstSnapshot.BASELINE)
    )
    assert everything.rooms == (
        RoomSpec(
            source="main",
            upstream_id="abc-defg-hij",
            name="Weekly stand-up",
            interval=seconds(5),
            leave_after_missed=3,
            enabled=False,
        ),
        RoomSpec(source="second", upstream_id="Räume/?"),
    )


def test_every_key_of_endpoints_and_deliveries_arrives(everything: Settings) -> None:
    assert everything.endpoints == (
        EndpointSpec(
            name="crm",
            url="https://crm.example.com/hooks/presence",
            secret=WHSEC,
            events=("peer.*", "room.empty"),
            rooms=("abc-*",),
            style="flat",
            headers={"X-Auth": "y"},
            rate_per_second=2,
            max_concurrency=1,
            timeout=seconds(3),
            enabled=False,
        ),
        EndpointSpec(name="signed", url="http://[fd00::1]:8000/", signature="v1a", secret=WHSK),
        EndpointSpec(name="sdk", url="https://sdk.example.com", style="huddle01", secret="any text"),
    )
    assert everything.delivery.policy == DeliveryPolicy(
        timeout=seconds(5),
        retry_schedule=(seconds(1), seconds(2)),
        refused_schedule=(),
        disable_after=timedelta(days=1),
        rotation_grace=seconds(0),
    )
    networks = tuple(ip_network(text) for text in ("127.0.0.0/8", "fd00::/8", "10.0.0.1/32"))
    assert everything.delivery.egress == EgressPolicy(allow_http=True, allow_private_networks=networks)


def test_an_empty_configuration_has_the_defaults_of_the_contract() -> None:
    settings = load(None, {})
    schedule = (5, 30, 120, 300, 900, 1800, 3600, 7200, 18000, 36000, 50400, 72000, 86400)
    assert (settings.bridge.name, settings.bridge.timezone) == ("Presence bridge", ZoneInfo("UTC"))
    assert settings.bridge.shutdown_grace == seconds(10)
    assert settings.database.url == "sqlite:///bridge.db"
    assert (settings.sources, settings.rooms, settings.endpoints) == ((), (), ())
    assert settings.polling == PollingSettings(
        interval=seconds(10), policy=PresencePolicy(leave_after_missed=1, first_snapshot=FirstSnapshot.EMIT)
    )
    assert settings.delivery.policy == DeliveryPolicy(
        timeout=seconds(15),
        retry_schedule=tuple(seconds(step) for step in schedule),
        refused_schedule=(seconds(5), seconds(300)),
        disable_after=timedelta(days=5),
        rotation_grace=timedelta(hours=24),
    )
    assert settings.delivery.egress == EgressPolicy(allow_http=False, allow_private_networks=())
    assert settings.polling.idle_interval == seconds(120)
    assert settings.database.listen_url is None
    assert settings.identity.person_key == ("email", "walletAddress")
    assert settings.identity.display_name == ("displayName", "name")
    assert settings.identity.metadata is None, "full"
    assert settings.web.listen == ListenAddress(host="127.0.0.1", port=8080)
    web = settings.web
    assert (web.tokens, web.hosts, web.trusted_proxies, web.cors_origins) == ((), (), (), ())
    assert (web.public_url, web.requests_per_second, settings.probes.listen) == ("", 50, None)
    attendance = settings.attendance
    assert (attendance.reconcile, attendance.reconcile_after, attendance.merge_gap) == (True, seconds(120), seconds(0))
    assert (settings.audit.checkpoint_every, settings.audit.checkpoint_file) == (seconds(3600), "")
    assert (settings.retention.events, settings.retention.attempts) == (timedelta(days=400), timedelta(days=30))
    assert (settings.log.format, settings.log.level) == ("auto", "info")
    assert settings.encryption_keys == ()


@pytest.mark.parametrize(
    ("text", "requests_per_second"),
    [("", 20), ('kind = "livekit"\napi_secret = "s"\nbase_url = "https://e"\n', 10)],
    ids=["huddle01", "livekit"],
)
def test_a_source_has_the_defaults_of_the_contract(load_text: LoadText, text: str, requests_per_second: float) -> None:
    (source,) = load_text(f'[sources.main]\napi_key = "k"\n{text}').sources
    assert (source.timeout, source.max_concurrency) == (seconds(8), 16)
    assert (source.requests_per_second, source.max_response_bytes) == (requests_per_second, 16 * 1024**2)
    assert (source.discover, source.discover_rooms, source.discover_forget) == (False, ("*",), timedelta(days=1))
    assert (source.ignore_kinds, source.ignore_hidden) == (("egress",), True)


def test_a_room_and_an_endpoint_have_the_defaults_of_the_contract(load_text: LoadText) -> None:
    settings = load_text(
        '[sources.main]\napi_key = "k"\n[[rooms]]\nid = "r"\n[[endpoints]]\nname = "e"\nurl = "https://e/"\n'
    )
    (room,), (endpoint,) = settings.rooms, settings.endpoints
    assert (room.name, room.source, room.interval, room.leave_after_missed, room.enabled) == (
        None, "main", None, None, True,
    )  # fmt: skip
    assert (endpoint.style, endpoint.signature, endpoint.secret, endpoint.headers) == ("standard", "v1", None, {})
    assert (endpoint.events, endpoint.rooms) == (("peer.joined", "peer.left", "room.empty"), ("*",))
    assert (endpoint.rate_per_second, endpoint.max_concurrency, endpoint.timeout, endpoint.enabled) == (
        0,
        8,
        None,
        True,
    )


def test_defaults_are_those_of_the_owners(load_text: LoadText) -> None:
    """A source, a room or an endpoint added by API or CLI must not differ from the same one in the file."""
    text = '[sources.main]\napi_key = "k"\n[[rooms]]\nid = "r"\n[[endpoints]]\nname = "e"\nurl = "https://e/"\n'
    settings = load_text(text)
    base_url = "https://api.huddle01.com/api/v2/sdk"
    assert settings.sources == (SourceSettings(name="main", kind="huddle01", base_url=base_url, api_key="k"),)
    assert settings.rooms == (RoomSpec(source="main", upstream_id="r"),)
    assert settings.endpoints == (EndpointSpec(name="e", url="https://e/"),)
    assert settings.delivery.policy == DeliveryPolicy()
    assert settings.delivery.egress == EgressPolicy()
    assert settings.polling.policy == PresencePolicy()


def test_settings_are_frozen() -> None:
    settings = load(None, {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.web.listen = None
