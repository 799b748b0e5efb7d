"""Time and chance, as the shell hands them to everything that must not reach for them itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What is read from outside; `bridge.service.system_runtime` is the real one."""

    now: Callable[[], datetime]
    """The time, aware, in UTC."""
    new_id: Callable[[str], str]
    """A fresh public id for a prefix: `new_id("evt")` is `evt_…`."""
    new_token: Callable[[], str]
    """A fresh fencing token for a claim."""
    jitter: Callable[[], float]
    """Uniform in [0, 1)."""
