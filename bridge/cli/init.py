"""`bridge init`: the first configuration."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_message
from bridge.cli.settings import DEFAULT_CONFIG
from bridge.compose import new_secret
from bridge.config.template import SOURCES, render
from bridge.config.words import did_you_mean, one_of
from bridge.errors import UsageError
from bridge.sources.kinds import DEFAULT_KIND


def init(
    path: Annotated[Path | None, typer.Argument(metavar="FILE", help="File to write; default ./bridge.toml.")] = None,
    source: Annotated[
        str, typer.Option(metavar="KIND", help=f"Kind of source: {' or '.join(SOURCES)}.")
    ] = DEFAULT_KIND,
    config: ConfigOption = None,
) -> None:
    """Write a commented bridge.toml with a fresh secret (mode 0600). An existing file is not overwritten."""
    if source not in SOURCES:
        raise UsageError(f"--source must be {one_of(SOURCES)}{did_you_mean(source, SOURCES)}")
    path = path or config or DEFAULT_CONFIG
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten: name another file, or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(render(new_secret("v1"), source))
    variables = " and ".join(re.findall(r'"env:(\w+)"', SOURCES[source]))
    print_message(
        f"wrote {path}: set {variables}, enter your rooms and endpoints, then `bridge check` and `bridge run`"
    )
