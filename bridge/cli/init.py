"""`bridge init`: the first configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_message
from bridge.cli.settings import DEFAULT_CONFIG
from bridge.compose import new_secret
from bridge.config.template import render
from bridge.errors import UsageError


def init(
    path: Annotated[Path | None, typer.Argument(metavar="FILE", help="File to write; default ./bridge.toml.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a commented bridge.toml with a fresh secret (mode 0600). An existing file is not overwritten."""
    path = path or config or DEFAULT_CONFIG
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten: name another file, or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(render(new_secret("v1")))
    print_message(
        f"wrote {path}: set HUDDLE01_API_KEY, enter your rooms and endpoints, then `bridge check` and `bridge run`"
    )
