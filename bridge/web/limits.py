"""The rate limit of a token, `web.requests_per_second`, in each process separately."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RateLimiter:
    """A token bucket for each name, with the requests of one second; times are seconds of any steady clock."""

    _levels: dict[str, tuple[float, float]] = field(default_factory=dict)

    def wait(self, name: str, per_second: float, now: float) -> float:
        """Count a request; returns the seconds until it would be allowed, 0 if it is now. Rate 0 is unlimited."""
        if per_second <= 0:
            return 0
        capacity = max(per_second, 1)
        level, counted_at = self._levels.get(name, (capacity, now))
        level = min(level + (now - counted_at) * per_second, capacity)
        is_allowed = level >= 1
        self._levels[name] = (level - is_allowed, now)
        return 0 if is_allowed else (1 - level) / per_second
