"""The clock, ids and chance, passed as arguments to code that must not read them itself."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ulid import ULID


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Sources of time and chance; `system_runtime` has the real ones."""

    now: Callable[[], datetime]
    """The time, in UTC."""
    new_id: Callable[[str], str]
    """A new public id with a prefix: `new_id("evt")` is `evt_…`. That of a salt has 128 random bits, and no time."""
    jitter: Callable[[], float]
    """Uniform in [0, 1)."""


def system_runtime() -> Runtime:
    """The system's clock and randomness."""
    return Runtime(
        now=lambda: datetime.now(UTC),
        new_id=_new_id,
        jitter=random.random,
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16) if prefix == 'salt' else str(ULID()).lower()}"
