"""Jobs that one process at a time does. The claims of a process that died are freed by `bridge.db.liveness`."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, or_, select, update

from bridge.db.engine import upsert
from bridge.db.tables import jobs


def claim_job(
    connection: Connection, name: str, *, every: timedelta, now: datetime, token: str, waits_at_first: bool = False
) -> bool:
    """Claim a job that is due; returns whether this process is to do it now.

    A new job is due at once, or after `every` if it `waits_at_first`. One that is planned for later than after `every`
    is due too: it was done less often then, or by another clock.
    """
    first_at = now + every if waits_at_first else now
    connection.execute(
        upsert(connection.dialect.name)(jobs).values(name=name, next_run_at=first_at).on_conflict_do_nothing()
    )
    claim = update(jobs).where(jobs.c.name == name, jobs.c.claim_token.is_(None), _is_due(every, now))
    return connection.execute(claim.values(claim_token=token)).rowcount == 1


def _is_due(every: timedelta, now: datetime) -> ColumnElement[bool]:
    return or_(jobs.c.next_run_at <= now, jobs.c.next_run_at > now + every)


def is_job_due(connection: Connection, name: str, *, every: timedelta, now: datetime) -> bool:
    """Whether `claim_job` would claim a job that has been planned before."""
    due = select(jobs.c.name).where(jobs.c.name == name, jobs.c.claim_token.is_(None), _is_due(every, now))
    return connection.execute(due).first() is not None


def clock_has_jumped(connection: Connection, name: str, *, every: timedelta, now: datetime) -> bool:
    """Whether a job was to run at a time so far from now that the clock was set, or nothing ran for long."""
    planned = connection.execute(select(jobs.c.next_run_at).where(jobs.c.name == name)).scalar()
    return planned is not None and not now - every <= planned <= now + every


def finish_job(connection: Connection, name: str, *, token: str, next_run_at: datetime) -> None:
    """End a claim; the job is due again at `next_run_at`."""
    ours = (jobs.c.name == name, jobs.c.claim_token == token)
    connection.execute(update(jobs).where(*ours).values(claim_token=None, next_run_at=next_run_at))
