"""The program: its commands, put together, and what becomes of errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import click
import typer

from bridge import __version__
from bridge.cli import listen, running, setup, simulate
from bridge.cli.terminal import complain
from bridge.errors import BridgeError

INTERRUPTED = 130
"""What shells say of a program that ended by Ctrl-C."""

app = typer.Typer(
    name="bridge",
    help="Polls rooms, keeps a log of who came and went, and delivers it as signed webhooks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; answers its exit code."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (click.ClickException, BridgeError) as error:
        return _explain(error)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: there is nobody to tell
        return 1
    return code if isinstance(code, int) else 0


def _explain(error: click.ClickException | BridgeError) -> int:
    match error:
        case click.ClickException():
            error.show()
            return error.exit_code
        case BridgeError():
            complain(str(error))
            return error.exit_code


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bridge {__version__}")
        raise typer.Exit


@app.callback()
def _bridge(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Who is in the room, as signed webhooks."""


app.command("init")(setup.init)
app.command("check")(setup.check)
app.command("migrate")(setup.migrate)
app.command("run")(running.run)
app.command("simulate")(simulate.simulate)
app.command("listen")(listen.listen)
