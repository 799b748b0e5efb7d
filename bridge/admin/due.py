"""Whether anything is due: what a process reads at each tick, so that an idle one writes nothing."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select

from bridge.delivery.claim import CURSORS_DUE, REDELIVERIES_DUE
from bridge.polling.claim import ROOMS_DUE
from bridge.polling.discovery import LISTS_DUE


class DueWork(NamedTuple):
    """The kinds of work that can be claimed now."""

    polls: bool
    deliveries: bool
    redeliveries: bool
    lists: bool


def find_due_work(connection: Connection, now: datetime) -> DueWork:
    """Look for work that is due and that no limit forbids."""
    return DueWork(*connection.execute(_DUE_WORK, {"now": now}).one())


_DUE_WORK = select(ROOMS_DUE, CURSORS_DUE, REDELIVERIES_DUE, LISTS_DUE)
