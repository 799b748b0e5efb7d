"""`bridge listen`: a receiver that verifies every delivery and says in one line what it was."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.console import Part, Screen, fit
from bridge.cli.delivery_checks import Memory
from bridge.cli.output import say
from bridge.cli.parse_event import Facts, read_facts, read_json
from bridge.cli.receiver import Delivery, receive
from bridge.cli.signals import Stopping
from bridge.cli.verify import Check, gather_secrets, huddle01_check, standard_check
from bridge.config.words import printable
from bridge.errors import VerificationError

VERIFIED, REJECTED, TOO_LARGE, ENOUGH = 204, 401, 413, 503


class Format(StrEnum):
    """How deliveries are signed: as Standard Webhooks (whatever the shape of the body), or as Huddle01's own are."""

    STANDARD = "standard"
    HUDDLE01 = "huddle01"


def listen(
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECRET", help="whsec_…, whsk_… or whpk_…, or env:NAME (arguments show in `ps`); may be repeated."
        ),
    ] = None,
    secret_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file with a secret; may be repeated.")
    ] = None,
    style: Annotated[
        Format, typer.Option(metavar="standard|huddle01", help="Of the signature; the formats but huddle01 sign alike.")
    ] = Format.STANDARD,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Where to listen; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65_535, help="0 is a free one.")] = 9000,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after so many; exit 3 if one did not verify.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print verified bodies, one JSON line each.")] = False,
) -> None:
    """Receive webhooks, verify them, print a line for each; 204 for those that verify, 401 for the others."""
    secrets = gather_secrets(secret or (), secret_file or ())
    check = standard_check(secrets) if style is Format.STANDARD else huddle01_check(secrets)
    listener = asyncio.run(_listen(check, host=host, port=port, count=count, as_json=as_json))
    if count is not None and listener.refused:
        raise VerificationError(f"{listener.refused} of {listener.received} deliveries did not verify")


async def _listen(check: Check, *, host: str, port: int, count: int | None, as_json: bool) -> Listener:
    stopping = Stopping()
    listener = Listener(check, Screen(on_gone=stopping.asked.set), as_json=as_json)

    def respond(delivery: Delivery) -> int:
        if count is not None and listener.received >= count:
            return ENOUGH  # enough were seen; the sender keeps this one for whoever comes next
        status = listener.take(delivery, datetime.now(UTC))
        if listener.received == count:
            stopping.asked.set()
        return status

    async with receive(respond, host=host, port=port) as url:
        say(f"listening on {url} (any path; Ctrl-C ends)")
        await stopping.asked.wait()
    say(f"{listener.received} received, {listener.received - listener.refused} verified")
    return listener


class Listener:
    """Judges one delivery after the other, and prints a line for each."""

    def __init__(self, check: Check, screen: Screen, *, as_json: bool) -> None:
        self._check = check
        self._screen = screen
        self._as_json = as_json
        self._memory = Memory()
        self.received = 0
        self.refused = 0

    def take(self, delivery: Delivery, now: datetime) -> int:
        """Verify, print, and choose the response."""
        self.received += 1
        facts = read_facts(read_json(delivery.body))
        try:
            event_id = self._verify(delivery, now)
        except VerificationError as error:
            self.refused += 1
            self._tell(facts, now, ("✗ not verified", "bold red"), f"  {printable(str(error))}")
            return REJECTED if delivery.whole else TOO_LARGE
        remarks = "; ".join(self._memory.remarks(event_id, facts, delivery))
        if self._as_json:
            self._screen.write_line(_one_line(delivery.body))
        if remarks or not self._as_json:
            self._tell(facts, now, ("✓ verified", "green"), f"  {printable(event_id)}", (f"  {remarks}", "yellow"))
        return VERIFIED

    def _verify(self, delivery: Delivery, now: datetime) -> str:
        if not delivery.whole:
            raise VerificationError(f"the body is larger than {len(delivery.body)} bytes")
        return self._check(delivery, now)

    def _tell(self, facts: Facts, now: datetime, *outcome: Part) -> None:
        assign_sequences = "-" if facts.sequence is None else f"#{facts.sequence}"
        parts: tuple[Part, ...] = (
            (f"{now.astimezone():%H:%M:%S}  ", "dim"),
            fit(facts.room_name, 16) + " ",
            f"{assign_sequences:>5}  ",
            (fit(facts.type, 14) + " ", "bold"),
            fit(facts.who, 18) + " ",
            *outcome,
        )
        if self._as_json:
            say("".join(part if isinstance(part, str) else part[0] for part in parts).rstrip())
        else:
            self._screen.show(*parts)


def _one_line(body: bytes) -> str:
    document = read_json(body)
    return json.dumps(
        body.decode(errors="replace") if document is None else document, ensure_ascii=False, separators=(",", ":")
    )
