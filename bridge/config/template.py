"""The `bridge.toml` that `bridge init` writes: the keys that a first run needs, explained."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import Final

from bridge.sources.kinds import DEFAULT_KIND

SOURCES: Final[Mapping[str, str]] = {
    "huddle01": """\
# The Huddle01 account. Its key stays out of this file: export HUDDLE01_API_KEY before starting the bridge, or name
# a file that contains it: api_key_file = "/run/secrets/huddle01".
[sources.main]
kind = "huddle01"
api_key = "env:HUDDLE01_API_KEY"
# discover = true                   # track every live room, whether it is listed below or not
""",
    "livekit": """\
# The LiveKit server or project. Key and secret stay out of this file: export LIVEKIT_API_KEY and LIVEKIT_API_SECRET
# before starting the bridge, or name files that contain them: api_key_file = "…", api_secret_file = "…".
[sources.main]
kind = "livekit"
base_url = "http://127.0.0.1:7880"  # CHANGE: your server, or https://YOUR-PROJECT.livekit.cloud
api_key = "env:LIVEKIT_API_KEY"
api_secret = "env:LIVEKIT_API_SECRET"
# ignore_kinds = ["egress"]         # kinds of participants that never count, like "agent" or "sip"
# discover = true                   # track every live room, whether it is listed below or not
""",
}
"""The source of the file, by its kind."""

_TEMPLATE: Final = Template("""\
# The configuration of the presence bridge. Keys left out have their defaults.
# `bridge check` reports every mistake in here at once; `bridge doctor` also tests the database, the API key and the
# endpoints; `bridge run` starts the service.
# Any key can also come from the environment: BRIDGE__POLLING__INTERVAL=5s is `interval` under [polling].

[bridge]
name = "Presence bridge"
timezone = "UTC"                    # for display and exports, like "Europe/Berlin"; storage is always UTC

[database]
url = "sqlite:///bridge.db"         # or postgresql://user:password@host/name, or "env:DATABASE_URL"

$source

[polling]
interval = "10s"                    # time between two polls of a room
leave_after_missed = 1              # polls without a peer before it has left; 2 or more rides out short disconnections

# The rooms to track: one [[rooms]] table each. With discover = true none is needed.
[[rooms]]
id = "abc-defg-hij"                 # CHANGE: your room's id
name = "Weekly stand-up"

# The receivers of events: one [[endpoints]] table each.
[[endpoints]]
name = "my-app"
url = "https://my-app.example/hooks/presence"         # CHANGE: the URL of your application
events = ["peer.joined", "peer.left", "room.empty"]   # or ["*"]
# The secret with which your application verifies signatures, freshly generated.
secret = "$secret"

[delivery]
# To deliver to a receiver on this machine (`bridge listen --secret-file FILE` is http://127.0.0.1:9000/):
# allow_private_networks = ["127.0.0.0/8"]

[web]
listen = "127.0.0.1:8080"           # dashboard and API, on this machine only; "" = off
# requests_per_second = 50          # per token; `bridge tokens add NAME --scope read --scope write` makes one
""")


def render(secret: str, kind: str = DEFAULT_KIND) -> str:
    """The text of the file, with this secret (`whsec_…`) for the endpoint and a source of this kind."""
    return _TEMPLATE.substitute(secret=secret, source=SOURCES[kind].rstrip())
