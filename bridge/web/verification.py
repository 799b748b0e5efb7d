"""Verifications of the log that were asked for by API or page: one at a time per process, and the last result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bridge.attendance.verify import Verification, verify_log
from bridge.db.engine import Database
from bridge.errors import DatabaseError
from bridge.events.bodies import rfc3339
from bridge.logs import get_logger

log = get_logger("bridge.web")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLog:
    """The result of the verification that was started `at` this time."""

    at: datetime
    result: Verification

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"at": rfc3339(self.at), **self.result.document}


@dataclass(slots=True)
class LogVerification:
    """The last verification of this process, and the one under way; `failure` is why the last one has no result."""

    last: VerifiedLog | None = None
    failure: str | None = None
    under_way_since: datetime | None = None
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    def start(self, database: Database, now: datetime) -> datetime:
        """Start one in the background, unless one is under way; returns its time of start."""
        if self.under_way_since is None:
            self.under_way_since = now
            self._task = asyncio.create_task(self._run(database, now))
        return self.under_way_since

    async def _run(self, database: Database, at: datetime) -> None:
        try:
            self.last, self.failure = VerifiedLog(at=at, result=await database.read_long(verify_log)), None
        except DatabaseError as error:
            self.failure = str(error)
            log.warning("log.verification_failed", detail=str(error))
        except Exception:
            self.failure = "an unexpected error: the log of the service has more"
            log.exception("log.verification_failed")
        else:
            found = self.last.result
            write = log.error if found.problems else log.info
            write("log.verified", events=found.events, logs=found.rooms, problems=len(found.problems))
        finally:
            self.under_way_since = None
