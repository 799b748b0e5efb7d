"""`bridge listen`: a receiver that verifies deliveries and prints a line for each."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.delivery_checks import SeenDeliveries
from bridge.cli.output import fit, is_wide, print_message
from bridge.cli.parse_event import ParsedEvent, parse_event
from bridge.cli.receiver import Delivery, receive
from bridge.cli.screen import Part, Screen
from bridge.cli.signals import Stopping
from bridge.cli.verify import Verify, gather_secrets, huddle01_verifier, standard_verifier
from bridge.config.words import printable
from bridge.errors import VerificationError

VERIFIED, REJECTED, TOO_LARGE, UNAVAILABLE = 204, 401, 413, 503


class Scheme(StrEnum):
    """The signature scheme: Standard Webhooks, whatever the style of the body, or Huddle01's own."""

    STANDARD = "standard"
    HUDDLE01 = "huddle01"


def listen(
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="SECRET", help="whsec_…, whsk_…, whpk_… or env:NAME (`ps` shows arguments); repeatable."),
    ] = None,
    secret_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="File with a secret; repeatable.")
    ] = None,
    style: Annotated[
        Scheme,
        typer.Option(
            metavar="standard|huddle01", help="Signature scheme: Standard Webhooks for every style except huddle01."
        ),
    ] = Scheme.STANDARD,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65_535, help="Port; 0 is a free one.")] = 9000,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N deliveries; exit 3 if one did not verify.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verified bodies, one JSON line each.")] = False,
) -> None:
    """Receive webhooks, verify them and print a line for each. Responds 204 to verified ones, 401 to others."""
    secrets = gather_secrets(secret or (), secret_file or ())
    verify = standard_verifier(secrets) if style is Scheme.STANDARD else huddle01_verifier(secrets)
    listener = asyncio.run(_listen(verify, host=host, port=port, count=count, as_json=as_json))
    if count is not None and listener.rejected:
        raise VerificationError(f"{listener.rejected} of {listener.received} deliveries did not verify")


async def _listen(verify: Verify, *, host: str, port: int, count: int | None, as_json: bool) -> Listener:
    stopping = Stopping()
    listener = Listener(verify, Screen(on_gone=stopping.requested.set), as_json=as_json)

    def respond(delivery: Delivery) -> int:
        if count is not None and listener.received >= count:
            return UNAVAILABLE  # the sender keeps it for the next receiver
        status = listener.take(delivery)
        if listener.received == count:
            stopping.requested.set()
        return status

    async with receive(respond, host=host, port=port) as url:
        print_message(f"listening on {url} (any path; Ctrl-C ends)")
        await stopping.requested.wait()
    print_message(f"{listener.received} received, {listener.received - listener.rejected} verified")
    return listener


class Listener:
    """Verifies deliveries and prints a line for each."""

    def __init__(self, verify: Verify, screen: Screen, *, as_json: bool = False) -> None:
        self._verify = verify
        self._screen = screen
        self._as_json = as_json
        self._seen = SeenDeliveries()
        self.received = 0
        self.rejected = 0

    def take(self, delivery: Delivery) -> int:
        """Verify, print, and return the status of the response."""
        self.received += 1
        event, now = parse_event(delivery.body), datetime.now(UTC)
        try:
            if not delivery.whole:
                raise VerificationError(f"the body is larger than {len(delivery.body)} bytes")  # noqa: TRY301 - a reason like the others
            event_id = self._verify(delivery, now)
        except VerificationError as error:
            self.rejected += 1
            self._print(event, now, ("✗ not verified", "bold red"), f"  {printable(str(error))}")
            return REJECTED if delivery.whole else TOO_LARGE
        remarks = "; ".join(self._seen.add(event_id, event, delivery))
        if self._as_json:
            self._screen.write_line(json.dumps(event.document, ensure_ascii=False, separators=(",", ":")))
        if remarks or not self._as_json:
            shown_id = f"  {printable(event_id)}" if is_wide() else ""
            self._print(event, now, ("✓ verified", "green"), shown_id, (f"  {remarks}", "yellow"))
        return VERIFIED

    def _print(self, event: ParsedEvent, now: datetime, *outcome: Part) -> None:
        sequence = "-" if event.sequence is None else f"#{event.sequence}"
        parts: tuple[Part, ...] = (
            (f"{now.astimezone():%H:%M:%S}  ", "dim"),
            fit(event.room_name, 16) + " ",
            f"{sequence:>5}  ",
            (fit(event.type, 14) + " ", "bold"),
            fit(event.subject, 18) + " ",
            *outcome,
        )
        if self._as_json:
            print_message("".join(part if isinstance(part, str) else part[0] for part in parts).rstrip())
        else:
            self._screen.show(*parts)
