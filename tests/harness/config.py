"""Writes a `bridge.toml` for a test: short times where the defaults are long, everything else by argument."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Table = Mapping[str, object]
Configure = Callable[..., Path]
"""`write_config` with the path, the database and the upstream of a test."""

API_KEY = "simulated-key"

DEFAULTS: Mapping[str, Table] = {
    "bridge": {"name": "Tests", "shutdown_grace": "5s"},
    "polling": {"interval": "100ms"},
    "delivery": {
        "timeout": "5s",
        "retry_schedule": ["100ms", "200ms", *["400ms"] * 200],
        "allow_private_networks": ["127.0.0.0/8"],
    },
    "web": {"listen": ""},
    "log": {"format": "json", "level": "info"},
}
SOURCE: Table = {"kind": "huddle01", "api_key": API_KEY, "timeout": "5s", "requests_per_second": 0}


def write_config(
    path: Path,
    *,
    database_url: str,
    upstream: str,
    rooms: Sequence[str | Table] = (),
    endpoints: Sequence[Table] = (),
    sources: Mapping[str, Table] | None = None,
    **sections: Table,
) -> Path:
    """Write the configuration to `path`; `upstream` is the simulator's address, `sections` are merged over DEFAULTS.

    A room given as text is its id. `sources` has what differs from SOURCE by the name of each; default: one, `main`.
    """
    document: dict[str, object] = {
        name: {**DEFAULTS.get(name, {}), **sections.get(name, {})} for name in {**DEFAULTS, **sections}
    }
    document["database"] = {"url": database_url, **sections.get("database", {})}
    document["sources"] = {
        name: {**SOURCE, "base_url": f"{upstream}/api/v2/sdk", **source}
        for name, source in (sources or {"main": {}}).items()
    }
    document["rooms"] = [{"id": room} if isinstance(room, str) else room for room in rooms]
    document["endpoints"] = list(endpoints)
    path.write_text("".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in document.items()))
    return path


def _toml(value: object) -> str:
    match value:
        case Mapping():
            return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case bool() | int() | float():
            return json.dumps(value)
        case Sequence():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            raise TypeError(f"no TOML for {value!r}")
