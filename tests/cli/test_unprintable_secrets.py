"""A new secret that could not be printed is stored, and the message names the command that shows it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

import pytest

from bridge.cli.main import run
from tests.cli.conftest import Cli

Output = Callable[[], AbstractContextManager[TextIO]]

URL = "http://127.0.0.1:9/hook"


@contextmanager
def writing_to(descriptor: int) -> Iterator[TextIO]:
    stream = os.fdopen(descriptor, "w")
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):  # its buffer cannot be written now either
            stream.close()


def full_disk() -> AbstractContextManager[TextIO]:
    return writing_to(os.open("/dev/full", os.O_WRONLY))


def no_reader() -> AbstractContextManager[TextIO]:
    reading, writing = os.pipe()
    os.close(reading)
    return writing_to(writing)


def secret_of(cli: Cli) -> str:
    shown: str = cli("endpoints", "show", "crm", "--reveal", "--json").json()["secrets"][0]["secret"]
    return shown


def message(reason: str) -> str:
    return (
        f'bridge: endpoint "crm" has its new secret, but that could not be printed ({reason}): '
        "see `bridge endpoints show crm --reveal`\n"
    )


@pytest.mark.parametrize(
    ("command", "output", "reason"),
    [
        (["add", "crm", URL], full_disk, "no space left on device"),
        (["add", "crm", URL, "--json"], no_reader, "broken pipe"),
        (["rotate", "crm"], no_reader, "broken pipe"),
        (["rotate", "crm", "--json"], full_disk, "no space left on device"),
    ],
)
def test_the_message_names_the_command_that_shows_the_secret(
    cli: Cli, command: list[str], output: Output, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cli("endpoints", "add", "crm", URL).out.strip() if "rotate" in command else None

    with output() as stream, contextlib.redirect_stdout(stream):
        assert run(["endpoints", *command, "--config", str(cli.config)]) == 1

    assert capsys.readouterr().err == message(reason)
    assert secret_of(cli) != before
