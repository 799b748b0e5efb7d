"""What the rest of the bridge gets: the contract's own example, and the defaults."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from zoneinfo import ZoneInfo

from bridge.config import ListenAddress, load
from bridge.config.settings import (
    BridgeSettings,
    DatabaseSettings,
    DeliverySettings,
    LogFormat,
    LogLevel,
    LogSettings,
    RetentionSettings,
    Scope,
    Settings,
    WebSettings,
    WebToken,
)
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
discover = true

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
listen = "192.168.1.5:8080"
tokens = [{ name = "ops", token = "env:BRIDGE_TOKEN", scopes = ["read", "write"] }, { name = "eye", token = "see" }]

[retention]
events = "10d"
attempts = "1d"

[log]
format = "json"
level = "debug"
"""


def seconds(assign_sequences: float) -> timedelta:
    return timedelta(seconds=assign_sequences)


def test_every_key_arrives_where_it_belongs(load_text: LoadText) -> None:
    env = {
        "HUDDLE01_API_KEY": "key",
        "CRM_WEBHOOK_SECRET": WHSEC,
        "SIGNED_SECRET": WHSK,
        "X": "y",
        "BRIDGE_TOKEN": "t",
    }
    networks = tuple(ip_network(text) for text in ("127.0.0.0/8", "fd00::/8", "10.0.0.1/32"))
    assert load_text(EVERYTHING, env) == Settings(
        bridge=BridgeSettings(name="Acme rooms", timezone=ZoneInfo("Asia/Tokyo"), shutdown_grace=seconds(0)),
        database=DatabaseSettings(url="postgresql://user:password@host/name"),
        sources=(
            SourceSettings(
                name="main",
                kind="huddle01",
                base_url="http://127.0.0.1:9000/api/v2/sdk",
                api_key="key",
                timeout=seconds(4),
                max_concurrency=3,
                requests_per_second=0,
                discover=True,
            ),
            SourceSettings(
                name="second", kind="huddle01", base_url="https://api.huddle01.com/api/v2/sdk", api_key="other"
            ),
        ),
        polling=PollingSettings(
            interval=seconds(0.25),
            policy=PresencePolicy(leave_after_missed=2, first_snapshot=FirstSnapshot.BASELINE),
        ),
        rooms=(
            RoomSpec(
                source="main",
                upstream_id="abc-defg-hij",
                name="Weekly stand-up",
                interval=seconds(5),
                leave_after_missed=3,
                enabled=False,
            ),
            RoomSpec(source="second", upstream_id="Räume/?"),
        ),
        endpoints=(
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
        ),
        delivery=DeliverySettings(
            policy=DeliveryPolicy(
                timeout=seconds(5),
                retry_schedule=(seconds(1), seconds(2)),
                refused_schedule=(),
                disable_after=timedelta(days=1),
                rotation_grace=seconds(0),
            ),
            egress=EgressPolicy(allow_http=True, allow_private_networks=networks),
        ),
        web=WebSettings(
            listen=ListenAddress(host="192.168.1.5", port=8080),
            tokens=(
                WebToken(name="ops", token="t", scopes=frozenset({Scope.READ, Scope.WRITE})),
                WebToken(name="eye", token="see", scopes=frozenset({Scope.READ})),
            ),
        ),
        retention=RetentionSettings(events=timedelta(days=10), attempts=timedelta(days=1)),
        log=LogSettings(format=LogFormat.JSON, level=LogLevel.DEBUG),
    )


def test_nothing_configured_is_the_contract_s_defaults() -> None:
    schedule = (5, 30, 120, 300, 900, 1800, 3600, 7200, 18000, 36000, 50400, 72000, 86400)
    assert load(None, {}) == Settings(
        bridge=BridgeSettings(name="Presence bridge", timezone=ZoneInfo("UTC"), shutdown_grace=seconds(10)),
        database=DatabaseSettings(url="sqlite:///bridge.db"),
        sources=(),
        polling=PollingSettings(
            interval=seconds(10), policy=PresencePolicy(leave_after_missed=1, first_snapshot=FirstSnapshot.EMIT)
        ),
        rooms=(),
        endpoints=(),
        delivery=DeliverySettings(
            policy=DeliveryPolicy(
                timeout=seconds(15),
                retry_schedule=tuple(seconds(step) for step in schedule),
                refused_schedule=(seconds(5), seconds(300)),
                disable_after=timedelta(days=5),
                rotation_grace=timedelta(hours=24),
            ),
            egress=EgressPolicy(allow_http=False, allow_private_networks=()),
        ),
        web=WebSettings(listen=ListenAddress(host="127.0.0.1", port=8080), tokens=()),
        retention=RetentionSettings(events=timedelta(days=400), attempts=timedelta(days=30)),
        log=LogSettings(format=LogFormat.AUTO, level=LogLevel.INFO),
        encryption_keys=(),
    )


def test_defaults_are_those_of_the_owners(load_text: LoadText) -> None:
    """A source, a room or an endpoint added by API or CLI must not differ from the same one in the file."""
    text = '[sources.main]\napi_key = "k"\n[[rooms]]\nid = "r"\n[[endpoints]]\nname = "e"\nurl = "https://e/"\n'
    settings = load_text(text)
    base_url = "https://api.huddle01.com/api/v2/sdk"
    assert settings.sources == (SourceSettings(name="main", kind="huddle01", base_url=base_url, api_key="k"),)
    assert settings.rooms == (RoomSpec(source="main", upstream_id="r"),)
    assert settings.endpoints == (EndpointSpec(name="e", url="https://e/"),)
    assert settings.delivery == DeliverySettings(policy=DeliveryPolicy(), egress=EgressPolicy())
    assert settings.polling.policy == PresencePolicy()
