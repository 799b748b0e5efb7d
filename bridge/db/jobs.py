"""Jobs, each run by one process at a time. The claims of a process that died are freed by `bridge.db.liveness`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, or_, select, update

from bridge.db.engine import upsert
from bridge.db.tables import jobs


def claim_job(
    connection: Connection, name: str, *, every: timedelta, now: datetime, token: str, waits_at_first: bool = False
) -> bool:
    """Claim a job that is due; returns whether it was claimed.

    A new job is due at once, or after `every` if it `waits_at_first`. One that is planned for later than after `every`
    is due too: its interval was longer then, or the clock was wrong.
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
    """Whether a job was planned so far from now that the clock was set, or no process ran for long."""
    planned = connection.execute(select(jobs.c.next_run_at).where(jobs.c.name == name)).scalar()
    return planned is not None and not now - every <= planned <= now + every


def is_job_claimed(connection: Connection, name: str, *, token: str) -> bool:
    """Whether a claim is still valid; otherwise the caller is fenced."""
    return connection.execute(select(jobs.c.name).where(*_claimed(name, token))).first() is not None


def finish_job(connection: Connection, name: str, *, token: str, next_run_at: datetime) -> None:
    """End a claim; the job is due again at `next_run_at`."""
    connection.execute(update(jobs).where(*_claimed(name, token)).values(claim_token=None, next_run_at=next_run_at))


def release_job(connection: Connection, name: str, *, token: str) -> None:
    """Give back a claim: the job is due as before."""
    connection.execute(update(jobs).where(*_claimed(name, token)).values(claim_token=None))


def postpone_job(connection: Connection, name: str, next_run_at: datetime) -> None:
    """Plan a job for another time, unless it is claimed."""
    unclaimed = (jobs.c.name == name, jobs.c.claim_token.is_(None))
    connection.execute(update(jobs).where(*unclaimed).values(next_run_at=next_run_at))


def replace_jobs(connection: Connection, prefix: str, names: Collection[str], now: datetime) -> None:
    """Make these jobs due, and delete all others whose names begin with the prefix."""
    connection.execute(delete(jobs).where(jobs.c.name.startswith(prefix), jobs.c.name.not_in(names)))
    if names:
        due = upsert(connection.dialect.name)(jobs).on_conflict_do_update(
            index_elements=[jobs.c.name], set_={"next_run_at": now}
        )
        connection.execute(due, [{"name": name, "next_run_at": now} for name in sorted(names)])


def _claimed(name: str, token: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return jobs.c.name == name, jobs.c.claim_token == token
