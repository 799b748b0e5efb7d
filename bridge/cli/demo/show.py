"""What the demo prints: who runs where, a line per delivery, one request in full, and what became of it all.

Made for 80 columns, so that a file or a narrow terminal shows each line whole; a wider terminal gets the long words.
"""

from __future__ import annotations

import json
from datetime import timedelta
from http import HTTPStatus
from itertools import chain, repeat
from statistics import median

from bridge.cli.console import Part, Screen, fit
from bridge.cli.demo.check import Findings, RoomFindings
from bridge.cli.demo.plan import Places, Plan
from bridge.cli.demo.receiver import BUSY, Received
from bridge.simulator.rooms import ChangeKind

LONG_WORDS_FROM = 100
"""Columns."""
COLOURS = {"peer.joined": "green", "peer.left": "yellow", "room.occupied": "bold green", "room.empty": "bold yellow"}
TO_SHOW_IN_FULL = "peer.joined"


def introduce(screen: Screen, plan: Plan, places: Places, dashboard: str | None) -> None:
    """Say what is running, and where."""
    end = "until Ctrl-C" if plan.duration is None else f"for {plan.duration.total_seconds():g} s"
    screen.show(("bridge demo", "bold"), f": all on this machine, nothing of it is kept; {end}")
    screen.show("  upstream   ", (places.upstream, "cyan"))
    screen.show(
        f"             a simulated Huddle01 with {_count(plan.room_count, 'room')} and people, seed {plan.seed}"
    )
    screen.show("  bridge     polls it every second; log and cursors in a temporary SQLite file")
    screen.show("  receiver   ", (places.receiver, "cyan"))
    screen.show("             verifies with the package standardwebhooks from PyPI, not our code")
    screen.show("  dashboard  ", (dashboard or "-", "cyan"))
    screen.show()
    screen.show("A line is a delivery; 'after' is how long ago it truly happened in the room.")
    screen.show((f"{'time':<8} {'room':<11}  seq {'event':<13} {'who':<16} after response", "dim"))


class Lines:
    """A line for each delivery, and the first `peer.joined` in full."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown_in_full = False

    def show(self, received: Received, after: timedelta | None) -> None:
        """Print a delivery; `after` is how long ago it truly happened."""
        facts = received.facts
        assign_sequences = "-" if facts.sequence is None else f"#{facts.sequence}"
        seconds = "" if after is None else f"{after.total_seconds():.1f}s"
        self._screen.show(
            (f"{received.at.astimezone():%H:%M:%S} ", "dim"),
            fit(facts.room_name, 11) + " ",
            f"{assign_sequences:>4} ",
            (fit(facts.type, 13) + " ", COLOURS.get(facts.type, "")),
            fit(facts.who, 16) + " ",
            (f"{seconds:>5} ", "dim"),
            (f"{received.status} ", "" if received.accepted else "red"),
            *self._verdict(received),
        )
        if received.status == BUSY:
            self._remark("503 once, on purpose: it comes again before its room goes on")
        elif received.again:
            self._remark("it came again: the same id and body, a fresh timestamp and signature")
        if facts.type == TO_SHOW_IN_FULL and received.accepted and not self._shown_in_full:
            self._shown_in_full = True
            self._show_request(received)

    def _verdict(self, received: Received) -> tuple[Part, ...]:
        if received.unverified is not None:
            return (("✗ not verified: ", "bold red"), received.unverified)
        by = " by standardwebhooks" if self._screen.width >= LONG_WORDS_FROM else ""
        return ((f"✓ verified{by}", "green"),)

    def _remark(self, text: str) -> None:
        self._screen.show((f"         └ {text}", "dim"))

    def _show_request(self, received: Received) -> None:
        delivery = received.delivery
        lines = [f"POST {delivery.path}", *(f"{name}: {value}" for name, value in delivery.headers.items()), ""]
        lines += json.dumps(received.event, indent=2, ensure_ascii=False).splitlines()
        self._screen.show(("  ┌ that request in full (the body is one line on the wire)", "dim"))
        for line in lines:
            self._screen.show(("  │ ", "dim"), line)
        status = HTTPStatus(received.status)
        self._screen.show((f"  └ answered {status.value} {status.phrase}", "dim"))


def conclude(screen: Screen, findings: Findings) -> None:
    """Say what became of it all."""
    true, told = findings.true, findings.told
    unseen = true[ChangeKind.JOIN] - told["peer.joined"]
    short = f" ({_count(unseen, 'stay')} too short for any poll to see)" if unseen > 0 and findings.good else ""
    again = f" ({findings.again} came again)" if findings.again else ""
    screen.show()
    screen.show(("Summary", "bold"))
    screen.show(f"  in truth   {_comings_and_goings(true[ChangeKind.JOIN], true[ChangeKind.LEAVE])}{short}")
    screen.show(
        f"  told       {_comings_and_goings(told['peer.joined'], told['peer.left'])}, {told.total()} events in all"
    )
    screen.show(f"  delivered  {_count(findings.requests, 'request')}{again}, ", *_signatures(findings))
    if seconds := [span.total_seconds() for span in findings.delays]:
        screen.show(f"  after      {median(seconds):.1f} s (median), {max(seconds):.1f} s (longest)")
    for label, room in zip(chain(["rooms"], repeat("")), findings.rooms, strict=False):
        _show_room(screen, label, room)
    for problem in findings.problems:
        screen.show(("  wrong      ", "bold red"), problem)
    if findings.good:
        screen.show(("Nobody was lied to: what the receiver was told is what is true.", "bold green"))


def _show_room(screen: Screen, label: str, room: RoomFindings) -> None:
    order = "see below" if room.problems else "in order, none missing"
    log = f"#1-#{room.head} {order}" if room.head else "nothing happened"
    line = f"  {label:<9}  {fit(room.name, 11)} {log}; now in it: {', '.join(room.names) or 'nobody'}"
    screen.show(fit(line, screen.width))


def _signatures(findings: Findings) -> tuple[Part, ...]:
    if findings.unverified:
        return ((f"{findings.unverified} NOT verified", "bold red"),)
    return (("all verified by standardwebhooks", "green"),)


def _comings_and_goings(joins: int, leaves: int) -> str:
    return f"{_count(joins, 'join')}, {_count(leaves, 'leave')}"


def _count(assign_sequences: int, what: str) -> str:
    return f"{assign_sequences} {what}" if assign_sequences == 1 else f"{assign_sequences} {what}s"
