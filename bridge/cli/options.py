"""Options that several commands share. Nothing heavy is imported here: `bridge --help` reads this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", envvar="BRIDGE_CONFIG", help="Configuration file; default ./bridge.toml."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=1_000_000, metavar="N", help="Number of items to show.")
]
RoomArgument = Annotated[str, typer.Argument(metavar="ROOM", help="Room id.")]
RoomFilter = Annotated[str | None, typer.Option("--room", metavar="ROOM", help="Only of this room.")]
SessionFilter = Annotated[str | None, typer.Option("--session", metavar="ID", help="Only this session.")]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="Source of the room, if several have this room id."),
]
EndpointArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the endpoint.")]
TypeFilter = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="GLOBS", help='Only these types, like "peer.*"; repeat, or separate with commas.'),
]
SinceFilter = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="Only from this time on: 2026-11-23T09:30:00Z, or 2h (ago)."),
]
UntilFilter = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Only before this time.")]

DEFAULT_LIMIT = 100
