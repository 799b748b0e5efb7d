"""Finds due work and the next due time in one reading statement, so that an idle process writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, cast, literal, null, select, union_all

from bridge.db.tables import jobs
from bridge.delivery.claim import NEXT_DELIVERY, NEXT_REDELIVERY
from bridge.polling.claim import NEXT_POLLS
from bridge.polling.source_state import LIST_JOB
from bridge.rules.rate import LONGEST_AHEAD

HORIZON = timedelta(seconds=1)
"""Later due times are not read."""


class DueWork(NamedTuple):
    """Work that can be claimed now.

    `sources`: those with rooms to poll; `lists`: whether a list of live rooms is due. `next_at`: the earliest time of
    what is due or will be within `HORIZON`.
    """

    sources: frozenset[str] = frozenset()
    lists: bool = False
    deliveries: bool = False
    redeliveries: bool = False
    next_at: datetime | None = None

    @classmethod
    def possibly(cls, sources: Iterable[str]) -> DueWork:
        """Everything may be due: the value before the first look."""
        return cls(frozenset(sources), lists=True, deliveries=True, redeliveries=True)


def find_due_work(connection: Connection, now: datetime, *, polls: bool = True, deliveries: bool = True) -> DueWork:
    """Find polls and deliveries that are due and within the limits."""
    times = {"until": now + HORIZON, "latest": now + LONGEST_AHEAD}
    rows = connection.execute(_waiting(polls=polls, deliveries=deliveries), times)
    waiting = [row for row in rows if row.at is not None]
    due = [row for row in waiting if row.at <= now]
    kinds = {row.kind for row in due}
    return DueWork(
        sources=frozenset(row.source for row in due if row.kind == _POLL),
        lists=_LIST in kinds,
        deliveries=_DELIVERY in kinds,
        redeliveries=_REDELIVERY in kinds,
        next_at=min((row.at for row in waiting), default=None),
    )


@cache
def _waiting(*, polls: bool, deliveries: bool) -> Any:  # noqa: ANN401 - a UNION
    """Times by kind; those of polls by source."""
    source, poll_at = NEXT_POLLS
    of_polls = select(literal(_POLL).label("kind"), source.label("source"), poll_at.label("at"))
    of_lists = select(
        literal(_LIST).label("kind"), cast(null(), Text).label("source"), jobs.c.next_run_at.label("at")
    ).where(jobs.c.name.startswith(LIST_JOB), jobs.c.next_run_at <= bindparam("until"), jobs.c.claim_token.is_(None))
    of_deliveries = [
        select(literal(kind).label("kind"), cast(null(), Text).label("source"), at.label("at"))
        for kind, at in ((_DELIVERY, NEXT_DELIVERY), (_REDELIVERY, NEXT_REDELIVERY))
    ]
    return union_all(*([of_polls, of_lists] if polls else []), *(of_deliveries if deliveries else []))


_POLL, _LIST, _DELIVERY, _REDELIVERY = "poll", "list", "delivery", "redelivery"
