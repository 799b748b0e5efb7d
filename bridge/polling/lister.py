"""Asks the sources that discover for their lists of live rooms; the loop is that of polls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from bridge.db.engine import Database
from bridge.db.liveness import Worker
from bridge.logs import get_logger
from bridge.polling.discovery import ClaimedList, RecordedList, claim_list, record_list, release_list
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure
from bridge.runtime import Runtime
from bridge.sources.protocol import ListingSource, SourceSettings
from bridge.workers import Claimed, WorkerPool

NAMES_IN_LOG = 20

log = get_logger("bridge.polling")


class Lister:
    """Asks one source for its live rooms, once in `every`, in one process at a time.

    Args:
        database: where the rooms are.
        account: the source's settings.
        source: asks.
        every: the time between two lists.
        runtime: clock, ids and chance.
        worker: the process's registration.
        on_due: called when a list has made rooms due.
    """

    def __init__(
        self,
        database: Database,
        account: SourceSettings,
        source: ListingSource,
        every: timedelta,
        runtime: Runtime,
        worker: Worker,
        on_due: Callable[[], None],
    ) -> None:
        self._database = database
        self._account = account
        self._source = source
        self._every = every
        self._runtime = runtime
        self._worker = worker
        self._on_due = on_due
        self.pool: WorkerPool[ClaimedList] = WorkerPool(
            f"discover {account.name}", slots=1, claim=self._claim, work=self._ask, release=self._release
        )

    async def _claim(self, slots: int) -> Claimed[ClaimedList]:  # noqa: ARG002 - there is one list
        claimed = await self._database.write_aside(
            claim_list,
            self._account.name,
            requests_per_second=self._account.requests_per_second,
            every=self._every,
            now=self._runtime.now(),
            token=self._worker.new_token(),
        )
        return Claimed([] if claimed is None else [claimed], may_have_more=False)

    async def _release(self, claimed: Sequence[ClaimedList]) -> None:
        for one in claimed:
            await self._database.write_aside(release_list, one)

    async def _ask(self, claimed: ClaimedList) -> None:
        found = await self._source.fetch_live_rooms()
        recorded = await self._database.write_aside(
            record_list,
            claimed,
            found,
            globs=self._account.discover_rooms,
            every=self._every,
            now=self._runtime.now(),
            jitter=self._runtime.jitter(),
            new_id=self._runtime.new_id,
        )
        if recorded.new or recorded.due:
            self._on_due()
        _log_list(claimed.source, found, recorded)


def _log_list(source: str, found: LiveRooms | Failure, recorded: RecordedList) -> None:
    """One line per list: a warning for failures, debug if nothing changed."""
    if recorded.fenced:
        log.warning("rooms.listed", source=source, outcome="fenced")
    elif isinstance(found, Failure):
        log.warning("rooms.listed", source=source, outcome=found.kind.value, detail=found.detail)
    else:
        write = log.info if recorded.new or found.notes else log.debug
        write(
            "rooms.listed",
            source=source,
            outcome="complete" if found.complete else "incomplete",
            live=len(found.peer_counts),
            new=len(recorded.new),
            new_rooms=list(recorded.new[:NAMES_IN_LOG]),
            changed=recorded.due,
            notes=list(found.notes),
        )
