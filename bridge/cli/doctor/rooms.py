"""Each room as `bridge doctor` finds it: as the pollers know it, or asked for where they have not been yet."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import groupby
from typing import Final

from bridge.admin.inventory import RoomRecord, Stock
from bridge.cli.doctor.findings import Check, Finding, State
from bridge.cli.doctor.sources import hurried
from bridge.cli.output import count_of, from_now
from bridge.config import Settings
from bridge.rules.presence import Failure
from bridge.runtime import Runtime
from bridge.service import open_source
from bridge.sources.protocol import Source

LISTED_AT_MOST: Final = 20
"""With more rooms than this, they are counted, and those that need a read_health are named."""
LASTING_FAILURES: Final = 5
_NAMED: Final = 5
_BOTH_LOOK_THE_SAME: Final = "unknown to Huddle01 or never live: both read_health the same"


class RoomKind(Enum):
    """What can be said of a room: how bad it is, in words for many, and what to do."""

    FAILING = State.FAIL, "cannot be polled", "see `bridge rooms show ROOM`: who is there is not known"
    TROUBLED = State.WARN, "failed when last polled", "if it goes on, see `bridge rooms show ROOM`"
    ORPHANED = State.FAIL, "without a source", "add the source to the configuration, or `bridge rooms remove ROOM`"
    NEVER_LIVE = State.WARN, f"never seen live ({_BOTH_LOOK_THE_SAME})", "compare the id, and the key's project"
    NOT_POLLED = State.WARN, "not polled yet", "start the service: `bridge run`"
    DISABLED = State.OK, "disabled", None
    POLLED = State.OK, "polled", None

    def __init__(self, state: State, label: str, advice: str | None) -> None:
        self.state = state
        self.label = label
        self.advice = advice


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRoom:
    """A room, and what was found."""

    record: RoomRecord
    kind: RoomKind
    detail: str


def known_rooms(settings: Settings, stock: Stock | None) -> list[RoomRecord]:
    """Every room that is tracked, or will be when the service takes up the configuration."""
    stored = () if stock is None else stock.rooms
    known = {(record.source, record.room_id) for record in stored}
    new = [spec for spec in settings.rooms if (spec.source, spec.upstream_id) not in known]
    return [
        *stored,
        *(RoomRecord(source=spec.source, room_id=spec.upstream_id, enabled=spec.enabled) for spec in new),
    ]


async def check_rooms(
    rooms: Sequence[RoomRecord], settings: Settings, well: Collection[str], runtime: Runtime
) -> list[Finding]:
    """Judge every room; those of `well` sources that were never polled are asked for, unless there are many."""
    may_ask = well if len(rooms) <= LISTED_AT_MOST else ()
    asked = [room for room in rooms if room.enabled and room.polled_at is None and room.source in may_ask]
    answers = await _ask(asked, settings, runtime)
    configured = {account.name for account in settings.sources}
    judged = [answers.get((room.source, room.room_id)) or judge_room(room, configured, runtime.now()) for room in rooms]
    if len(judged) > LISTED_AT_MOST:
        return condense(judged)
    several = len(settings.sources) > 1
    return [
        Finding(
            check=Check.ROOM,
            subject=f"{one.record.source}/{one.record.room_id}" if several else one.record.room_id,
            state=one.kind.state,
            detail=one.detail,
            advice=one.kind.advice,
        )
        for one in judged
    ]


def judge_room(record: RoomRecord, configured: Collection[str], now: datetime) -> JudgedRoom:
    """What the pollers' record of a room says."""
    polled = f"polled {from_now(record.polled_at, now)}"
    if not record.enabled:
        kind, detail = RoomKind.DISABLED, "disabled, so it is not polled"
    elif record.source not in configured:
        kind, detail = RoomKind.ORPHANED, f"its source {record.source} is not in the configuration: nobody polls it"
    elif record.polled_at is None:
        kind, detail = RoomKind.NOT_POLLED, "not polled yet"
    elif record.failures:
        kind = RoomKind.FAILING if record.failures >= LASTING_FAILURES else RoomKind.TROUBLED
        last = (
            "no whole response yet"
            if record.complete_at is None
            else f"last whole response {from_now(record.complete_at, now)}"
        )
        detail = f"{last}, {count_of(record.failures, 'failure')} in a row: {record.last_failure}"
    elif not record.was_live:
        kind, detail = RoomKind.NEVER_LIVE, f"{_BOTH_LOOK_THE_SAME}; {polled}"
    else:
        kind, detail = RoomKind.POLLED, polled
    return JudgedRoom(record=record, kind=kind, detail=detail)


def condense(judged: Iterable[JudgedRoom]) -> list[Finding]:
    """One line for each kind of room that there is."""
    order = list(RoomKind)
    groups = groupby(sorted(judged, key=lambda one: order.index(one.kind)), key=lambda one: one.kind)
    return [_condensed(kind, [one.record.room_id for one in group]) for kind, group in groups]


def _condensed(kind: RoomKind, ids: Sequence[str]) -> Finding:
    named = ""
    if kind.state is not State.OK:
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        named = f": {', '.join(ids[:_NAMED])}{more}"
    subject = count_of(len(ids), "room")
    return Finding(
        check=Check.ROOM, subject=subject, state=kind.state, detail=f"{kind.label}{named}", advice=kind.advice
    )


async def _ask(rooms: Sequence[RoomRecord], settings: Settings, runtime: Runtime) -> dict[tuple[str, str], JudgedRoom]:
    accounts = {account.name: account for account in settings.sources}
    sources = {name: open_source(hurried(accounts[name]), runtime) for name in {room.source for room in rooms}}
    try:
        judged = await asyncio.gather(*(_ask_about(room, sources[room.source]) for room in rooms))
    finally:
        for source in sources.values():
            await source.aclose()
    return {(one.record.source, one.record.room_id): one for one in judged}


async def _ask_about(room: RoomRecord, source: Source) -> JudgedRoom:
    response = await source.fetch(room.room_id)
    if isinstance(response, Failure):
        return JudgedRoom(record=room, kind=RoomKind.TROUBLED, detail=f"{response.kind}: {response.detail}")
    if not response.peers:
        detail = f"not polled yet; nobody is there: {_BOTH_LOOK_THE_SAME}"
        return JudgedRoom(record=room, kind=RoomKind.NEVER_LIVE, detail=detail)
    detail = f"not polled yet; live now, {count_of(len(response.peers), 'peer')}"
    return JudgedRoom(record=room, kind=RoomKind.POLLED, detail=detail)
