"""The snippets of the README work, and all that a page names exists: commands, options, make targets, links."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError
from typer.main import get_command

from bridge.cli.main import app
from bridge.rules.signing import parse_key, verify
from tests.docs import pages
from tests.docs.requests import Send, flipped
from tests.harness.receiver import SECRET, Delivery

TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)
VARIABLE = re.compile(r"\bBRIDGE_[A-Z_]+\b")


def run_verify_snippet(delivery: Delivery) -> None:
    snippet = compile(pages.block(pages.README, "verify"), "README.md", "exec")
    exec(snippet, {"body": delivery.body, "headers": delivery.headers})  # noqa: S102 - our own page


async def test_the_snippet_verifies_what_the_bridge_sends(send: Send, capsys: pytest.CaptureFixture[str]) -> None:
    assert SECRET in pages.block(pages.README, "verify")
    run_verify_snippet(await send())

    assert capsys.readouterr().out == "peer.left Ann\n"


async def test_the_snippet_refuses_what_is_changed_old_or_forged(send: Send) -> None:
    changed = flipped(await send())
    old = await send(age=timedelta(minutes=6))
    forged = await send(secrets=("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",))

    for delivery in (changed, old, forged):
        with pytest.raises(WebhookVerificationError):
            run_verify_snippet(delivery)


def test_the_payload_is_one_that_was_really_signed() -> None:
    head, _, printed = pages.block(pages.README, "payload").partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    body = json.dumps(json.loads(printed), separators=(",", ":"), ensure_ascii=False).encode()
    sent_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), tz=UTC)

    assert verify([parse_key(SECRET)], headers=headers, body=body, now=sent_at) == json.loads(printed)["id"]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the other words."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_is_shown_exists(page: Path) -> None:
    for shown in pages.commands(page, "bridge"):
        command, rest = resolve(list(shown))
        is_of_the_program = bool(rest) and all(word.startswith("-") for word in rest)  # as `bridge --version`
        is_whole = is_of_the_program or not hasattr(command, "commands")
        assert is_whole, f"{page.name}: there is no `bridge {' '.join(shown)}`"
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in rest if word.startswith("-")} - known - {"--help"}
        assert not unknown, f"{page.name}: `bridge {' '.join(shown)}` has no {unknown}"


def test_every_command_is_in_the_readme() -> None:
    def leaves(command: Any, *words: str) -> list[str]:  # noqa: ANN401 - Typer's own, or click's: that depends on its version
        below = getattr(command, "commands", None)
        if below is None:
            return [" ".join(words)]
        return [leaf for name, each in below.items() for leaf in leaves(each, *words, name)]

    shown = [" ".join(words) for words in pages.commands(pages.README, "bridge")]
    missing = [
        leaf for leaf in leaves(get_command(app)) if not any(f"{each} ".startswith(f"{leaf} ") for each in shown)
    ]
    assert not missing


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_shown_exists(page: Path) -> None:
    targets = set(TARGET.findall((pages.ROOT / "Makefile").read_text(encoding="utf-8")))

    assert {words[0] for words in pages.commands(page, "make")} <= targets


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_internal_link_has_a_target(page: Path) -> None:
    for link in pages.links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in pages.anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_environment_variable_that_is_named_is_read(page: Path) -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (pages.ROOT / "bridge").rglob("*.py"))
    named = {name for name in VARIABLE.findall(pages.read(page)) if not name.startswith("BRIDGE__")}

    assert {name for name in named if name.removesuffix("_FILE") not in source} == set()
