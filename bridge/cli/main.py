"""The program: its commands, and the exit code and message of every error.

The module of a command is imported when the command is looked up: database, configuration and HTTP clients take more
than a second to load, and no command needs all of them. `bridge --help` reads only the two tables below.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import UserDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from bridge import __version__
from bridge.cli.options import ConfigOption
from bridge.errors import BridgeError

COMMANDS: Mapping[str, tuple[str | Mapping[str, str], str]] = {
    "init": ("init.init", "Write a commented bridge.toml with a fresh secret."),
    "check": ("check.check", "Validate the configuration; touches nothing else."),
    "doctor": ("doctor.command.doctor", "Check database, API keys, rooms, endpoints and clocks; changes nothing."),
    "migrate": ("migrate.migrate", "Bring the database to the newest schema."),
    "run": ("serve.run", "Run the service: poll rooms, deliver events, serve the dashboard."),
    "poll": ("poll.poll", "Poll one room now and show what has changed."),
    "demo": ("demo.demo", "Run everything on this machine, with a simulated upstream."),
    "simulate": ("simulate.simulate", "Simulate the Huddle01 API on this machine."),
    "listen": ("listen.listen", "Receive webhooks, verify them and print a line for each."),
    "rooms": (
        {
            "list": "rooms.list_tracked",
            "show": "rooms.show",
            "add": "room_changes.add",
            "remove": "room_changes.remove",
            "discover": "room_discovery.discover",
        },
        "List, show, add, remove and discover tracked rooms.",
    ),
    "endpoints": (
        {
            "list": "endpoints.list_subscribed",
            "show": "endpoints.show",
            "add": "endpoint_changes.add",
            "remove": "endpoint_changes.remove",
            "test": "endpoint_actions.send_test",
            "enable": "endpoint_actions.enable",
            "disable": "endpoint_actions.disable",
            "rotate": "endpoint_actions.rotate",
        },
        "List, change and test subscribers.",
    ),
    "events": ({"list": "events.list_logged", "tail": "event_tail.tail"}, "List or follow the event log."),
    "attendance": (
        {
            "show": "attendance.show",
            "export": "attendance.export",
            "reconcile": "attendance_reconcile.reconcile",
        },
        "Show, export and correct who was there, and for how long.",
    ),
    "audit": (
        {"verify": "audit.verify", "head": "audit.head", "checkpoint": "audit.checkpoint"},
        "Verify that the event log was not changed.",
    ),
    "privacy": (
        {"erase": "privacy.erase", "export": "privacy.export_person", "prune": "privacy.prune"},
        "Erase or hand out what is stored of a person; delete what is old.",
    ),
    "tokens": (
        {"add": "tokens.add", "list": "tokens.list_made", "remove": "tokens.remove"},
        "Make, list and remove tokens of the HTTP API.",
    ),
    "openapi": ("openapi.openapi", "Print the OpenAPI description of the HTTP API."),
    "asyncapi": ("asyncapi.asyncapi", "Print the AsyncAPI description of webhooks and stream."),
    "deliveries": (
        {
            "list": "deliveries.list_recorded",
            "show": "deliveries.show",
            "replay": "delivery_actions.replay",
            "skip": "delivery_actions.skip",
        },
        "List attempts and dead letters; replay or skip events.",
    ),
}
"""The module and function of each command below `bridge.cli`, or those of a group, and its line in the help."""


class _Commands(UserDict[str, Any]):
    """Commands by name, imported when they are looked up."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a class of Typer's or click's, depending on the version
        where = self.data[name]
        command = _group(where, COMMANDS[name][1]) if isinstance(where, Mapping) else _command(where)
        command.name = name
        return command


def _command(where: str) -> Any:  # noqa: ANN401 - as above
    module, _, function = where.rpartition(".")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(getattr(import_module(f"bridge.cli.{module}"), function))
    if not gc.isenabled():  # see `bridge.__main__`
        gc.freeze()
        gc.enable()
    return get_command(app)


def _group(commands: Mapping[str, str], help_line: str) -> Any:  # noqa: ANN401 - as above
    app = typer.Typer(help=help_line, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
    group = get_group(app)
    group.commands = _Commands(commands)
    return group


class _Group(TyperGroup):
    """The program's group of commands."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - Typer's own
        super().__init__(**settings)
        self.commands = _Commands({name: where for name, (where, _) in COMMANDS.items()})

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """Write the commands' lines into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:  # noqa: ANN401 - as above
        """Complete the name of a command from the table: a shell waits for it."""
        self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}
        return super().shell_complete(ctx, incomplete)


app = typer.Typer(
    cls=_Group,
    name="bridge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command as a program and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape what the terminal cannot encode
    return run(arguments)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BridgeError as error:
        _print_error(str(error))
        return error.exit_code
    except UnicodeError as error:
        _print_error(f"an argument is not valid text ({error.reason if hasattr(error, 'reason') else error})")
        return 2
    except BrokenPipeError:
        return 1  # the reader of the output has gone: no message
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        _print_error(f"{error.filename or 'the output cannot be written'}: {reason}")
        return 1
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        _print_error(
            f"unexpected {type(error).__name__}: {error}\nplease report it, with the command and its configuration"
        )
        return 1
    return code


def _print_error(message: str) -> None:
    from bridge.cli.output import print_error  # noqa: PLC0415 - see the head of this file

    print_error(message)


def _invoke(arguments: Sequence[str] | None) -> int:
    """Let Typer report wrong usage and Ctrl-C: the classes of these exceptions differ between its versions."""
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
    """Polls rooms, keeps a log of who came and left, and delivers it as signed webhooks."""
    if config is not None:
        os.environ["BRIDGE_CONFIG"] = str(config)  # the default of the commands' own option
