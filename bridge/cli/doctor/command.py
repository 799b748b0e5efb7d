"""`bridge doctor`: tries everything out at once, changes nothing, and says what is wrong and what to do about it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import typer
from rich.console import Console

from bridge.admin.listing import document
from bridge.cli.console import Screen
from bridge.cli.doctor.database import Examined, check_database
from bridge.cli.doctor.endpoints import check_endpoints
from bridge.cli.doctor.findings import Check, Finding, State
from bridge.cli.doctor.machine import check_machine, check_web
from bridge.cli.doctor.rooms import check_rooms, known_rooms
from bridge.cli.doctor.sources import ExaminedSource, check_source, judge_record
from bridge.cli.options import ConfigOption, JsonOption, load_settings
from bridge.cli.output import WIDE, Column, print_json, print_table, say
from bridge.config import Settings
from bridge.runtime import Runtime
from bridge.service import system_runtime

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Told how many checks have ended, of how many."""

_COLUMNS: Final = tuple(Column(title=title) for title in ("check", "subject", "state", "found"))
_ADVICE: Final = Column(title="what to do")


def doctor(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Try everything out: database, sources, rooms, endpoints, this machine. Changes nothing."""
    settings = load_settings(config)
    with _progress() as progress:
        found = asyncio.run(_Examination(settings, system_runtime(), progress).run())
    if as_json:
        print_json([document(finding) for finding in found])
    else:
        _print_table(found)
        counted = Counter(finding.state for finding in found)
        say(", ".join(f"{counted[state]} {state}" for state in State))
    if any(finding.state is State.FAIL for finding in found):
        raise typer.Exit(1)


class _Examination:
    """All checks, at the same time as far as they do not wait for each other."""

    def __init__(self, settings: Settings, runtime: Runtime, progress: Progress) -> None:
        self._settings = settings
        self._world = runtime
        self._progress = progress
        self._begun = self._ended = 0

    async def run(self) -> list[Finding]:
        """Everything that was found, in the order of the checks."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            database = self._begin(group, check_database(settings))
            sources = [self._begin(group, check_source(account, self._world)) for account in settings.sources]
            web = self._begin(group, check_web(settings.web.listen))
            rooms = self._begin(group, self._check_rooms(database, sources))
            endpoints = self._begin(group, self._check_endpoints(database))
        found = [
            *check_machine(settings),
            web.result(),
            *database.result().findings,
            *(finding for source in sources for finding in source.result().findings),
            *self._judge_sources(database.result(), self._world.now()),
            *rooms.result(),
            *endpoints.result(),
        ]
        order = list(Check)
        return sorted(found, key=lambda finding: order.index(finding.check))

    async def _check_rooms(
        self, database: asyncio.Task[Examined], sources: Sequence[asyncio.Task[ExaminedSource]]
    ) -> list[Finding]:
        rooms = known_rooms(self._settings, (await database).stock)
        well = {source.name for source in [await task for task in sources] if source.is_well}
        return await check_rooms(rooms, self._settings, well, self._world)

    async def _check_endpoints(self, database: asyncio.Task[Examined]) -> list[Finding]:
        return await check_endpoints(self._settings, (await database).stock, self._world.now())

    def _judge_sources(self, database: Examined, now: datetime) -> list[Finding]:
        if database.stock is None:
            return []
        troubled = database.stock.troubled_sources
        return [judge_record(account, troubled, now) for account in self._settings.sources]

    def _begin(self, group: asyncio.TaskGroup, check: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = group.create_task(check)
        task.add_done_callback(lambda _: self._tell())
        self._begun += 1
        return task

    def _tell(self) -> None:
        self._ended += 1
        self._progress(self._ended, self._begun)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line that tells how far it is, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _ended, _begun: None
        return
    with Console(stderr=True).status("examining…") as status:
        yield partial(_show, status.update)


def _show(update: Callable[[str], None], ended: int, begun: int) -> None:
    update(f"examining… {ended} of {begun}")


def _print_table(found: Sequence[Finding]) -> None:
    """On a narrow terminal, what to do stands below what was found."""
    if sys.stdout.isatty() and Screen().width < WIDE:
        rows = [row for finding in found for row in (_cells(finding), *_below(finding))]
        print_table(_COLUMNS, rows, empty="")
    else:
        rows = [(*_cells(finding), finding.advice or "") for finding in found]
        print_table((*_COLUMNS, _ADVICE), rows, empty="")


def _cells(finding: Finding) -> tuple[object, ...]:
    return finding.check.replace("_", " "), finding.subject, finding.state, finding.detail


def _below(finding: Finding) -> Iterator[tuple[object, ...]]:
    if finding.advice is not None:
        yield "", "", "", f"→ {finding.advice}"
