"""The end of the log for lists that go from old to new: no event can be added before it any more."""

from __future__ import annotations

import asyncio
from typing import Final

from bridge.db.engine import Database
from bridge.db.final_keys import FinalKeys

LOOKS: Final = 5
PAUSE_SECONDS: Final = 0.02


class LogEnd:
    """The newest final key, of one process."""

    def __init__(self) -> None:
        self._keys = FinalKeys()
        self._looking = asyncio.Lock()

    async def find(self, database: Database) -> int:
        """Return the key; writers that are about to end are waited for.

        Raises:
            DatabaseError: the database failed.
        """
        async with self._looking:
            for _ in range(LOOKS):
                last = await database.look(self._keys.look)
                if not self._keys.is_waiting:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
            return last
