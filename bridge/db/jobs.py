"""Jobs that one process at a time does. The claims of a process that died are freed by `bridge.db.liveness`."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, or_, update

from bridge.db.engine import upsert
from bridge.db.tables import jobs


def claim_job(connection: Connection, name: str, *, every: timedelta, now: datetime, token: str) -> bool:
    """Claim a job that is due; returns whether this process is to do it now.

    One that is planned for later than after `every` is due too: it was done less often then, or by another clock.
    """
    connection.execute(
        upsert(connection.dialect.name)(jobs).values(name=name, next_run_at=now).on_conflict_do_nothing()
    )
    is_due = or_(jobs.c.next_run_at <= now, jobs.c.next_run_at > now + every)
    claim = update(jobs).where(jobs.c.name == name, jobs.c.claim_token.is_(None), is_due).values(claim_token=token)
    return connection.execute(claim).rowcount == 1


def finish_job(connection: Connection, name: str, *, token: str, next_run_at: datetime) -> None:
    """End a claim; the job is due again at `next_run_at`."""
    ours = (jobs.c.name == name, jobs.c.claim_token == token)
    connection.execute(update(jobs).where(*ours).values(claim_token=None, next_run_at=next_run_at))
