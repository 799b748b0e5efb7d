"""The program: its commands, put together, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from bridge import __version__
from bridge.cli import (
    deliveries,
    endpoint_actions,
    endpoints,
    events,
    listen,
    poll,
    replay,
    rooms,
    serve,
    setup,
    simulate,
)
from bridge.cli.demo.command import demo
from bridge.cli.doctor.command import doctor
from bridge.cli.options import ConfigOption
from bridge.cli.output import complain
from bridge.errors import BridgeError

app = typer.Typer(
    name="bridge",
    help="Polls rooms, keeps a log of who came and went, and delivers it as signed webhooks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command as a program; answers its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    return run(arguments)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; answers its exit code."""
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BridgeError as error:
        complain(str(error))
        return error.exit_code
    except UnicodeError as error:
        complain(f"an argument is not text that can be used ({error.reason if hasattr(error, 'reason') else error})")
        return 2
    except BrokenPipeError:
        return 1  # whoever read our output has gone, and knows it
    except OSError as error:
        complain(_say_os_error(error))
        return 1
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        complain(f"{type(error).__name__}: {error}")
        complain("this was not foreseen: please report it, with the command and its configuration")
        return 1
    return code


def _say_os_error(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"the output cannot be written: {reason}" if error.filename is None else f"{error.filename}: {reason}"


def _invoke(arguments: Sequence[str] | None) -> int:
    """Let Typer tell of wrong usage and Ctrl-C itself: whose exceptions these are differs between its versions."""
    try:
        app(args=arguments, prog_name="bridge")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bridge {__version__}")
        raise typer.Exit


@app.callback()
def _bridge(
    version: Annotated[  # noqa: ARG001 - Typer calls _show_version
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Who is in the room, as signed webhooks."""
    if config is not None:
        os.environ["BRIDGE_CONFIG"] = str(config)  # where the commands read_health that are not told otherwise


app.command("init")(setup.init)
app.command("check")(setup.check)
app.command("doctor")(doctor)
app.command("migrate")(setup.migrate)
app.command("run")(serve.run)
app.command("poll")(poll.poll)
# These two add commands to groups that are registered below: importing them is what does it.
_ADDED = (endpoint_actions, replay)
app.add_typer(rooms.app, name="rooms")
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(events.app, name="events")
app.add_typer(deliveries.app, name="deliveries")
app.command("demo")(demo)
app.command("simulate")(simulate.simulate)
app.command("listen")(listen.listen)
