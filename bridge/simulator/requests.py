"""What was asked of the simulated upstream, and when: tests read polling intervals and back-off here (upstream.md 6.7).

Requests are noted when they arrive, so one that is left hanging shows at once; its status stays null.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.simulator.rooms import Json

KEPT_REQUESTS = 20_000  # older ones are forgotten: a benchmark asks millions of times

RawHeaders = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True, kw_only=True)
class AskedFor:
    """One request. `at` is the simulation's time, `path` as it stood on the wire; no response, no `status`."""

    n: int
    at: int
    method: str
    path: str
    room_id: str | None
    raw_headers: RawHeaders
    status: int | None = None

    def as_json(self) -> dict[str, Json]:
        """As the control API tells it; header names in lower case, all values in full, the key included."""
        headers: dict[str, Json] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return {
            "n": self.n,
            "at": self.at,
            "method": self.method,
            "path": self.path,
            "headers": headers,
            "room_id": self.room_id,
            "status": self.status,
        }


class RequestLog:
    """The newest requests, numbered 1, 2, 3 …; clearing it does not start the numbers again."""

    def __init__(self, kept: int = KEPT_REQUESTS) -> None:
        self._entries: deque[AskedFor] = deque(maxlen=kept)
        self._last = 0

    def note(self, *, at: int, method: str, path: str, room_id: str | None, raw_headers: RawHeaders) -> AskedFor:
        """Write down a request that has just arrived; its status is set when it is answered."""
        self._last += 1
        entry = AskedFor(n=self._last, at=at, method=method, path=path, room_id=room_id, raw_headers=raw_headers)
        self._entries.append(entry)
        return entry

    def since(self, n: int = 0) -> list[AskedFor]:
        """The requests after assign_sequences `n`, oldest first."""
        return [entry for entry in self._entries if entry.n > n]

    def clear(self) -> None:
        """Forget all requests."""
        self._entries.clear()
