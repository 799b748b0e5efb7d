"""The `bridge.toml` that `bridge init` writes: what a first run needs, explained; the rest has its defaults."""

from __future__ import annotations

from string import Template
from typing import Final

_TEMPLATE: Final = Template("""\
# The configuration of the presence bridge. What is left out has its default.
# `bridge check` names every mistake in here at once; `bridge doctor` tries everything out; `bridge run` starts.
# Any key can also come from the environment: BRIDGE__POLLING__INTERVAL=5s is `interval` under [polling].

[bridge]
name = "Presence bridge"
timezone = "UTC"                    # for display and exports, like "Europe/Berlin"; storage is always UTC

[database]
url = "sqlite:///bridge.db"         # or postgresql://user:password@host/name, or "env:DATABASE_URL"

# Where presence comes from. The key stays out of this file: export HUDDLE01_API_KEY before starting the bridge,
# or name a file that holds it: api_key_file = "/run/secrets/huddle01".
[sources.main]
kind = "huddle01"
api_key = "env:HUDDLE01_API_KEY"

[polling]
interval = "10s"                    # how often each room is asked for
leave_after_missed = 1              # misses before a peer has left; 2 or more rides out short disconnections

# The rooms to track: one [[rooms]] table each.
[[rooms]]
id = "abc-defg-hij"                 # CHANGE: your room's id
name = "Weekly stand-up"

# Who is told: one [[endpoints]] table each.
[[endpoints]]
name = "my-app"
url = "https://my-app.example/hooks/presence"         # CHANGE: where your application listens
events = ["peer.joined", "peer.left", "room.empty"]   # or ["*"]
# Your application checks signatures with this secret, made for you just now. Keep it to the two of you.
secret = "$secret"

[delivery]
# For a receiver on this machine (http://127.0.0.1:9000/ is `bridge listen --secret-file FILE`), open its network:
# allow_private_networks = ["127.0.0.0/8"]

[web]
listen = "127.0.0.1:8080"           # dashboard and API on this machine; "" = off
# To let other machines in, a token is needed:
# listen = "0.0.0.0:8080"
# tokens = [{ name = "ops", token = "env:BRIDGE_TOKEN", scopes = ["read", "write"] }]
""")


def render(secret: str) -> str:
    """The file's text with a fresh endpoint secret (`whsec_…`, as `webhooks.signing.generate_secret` makes it)."""
    return _TEMPLATE.substitute(secret=secret)
