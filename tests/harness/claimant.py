"""A worker without a registration, for pollers and senders of a test."""

from __future__ import annotations

from itertools import count

from bridge.db.liveness import Worker


class Claimant(Worker):
    """Owns its claims until `frozen`."""

    def __init__(self) -> None:
        self.frozen = False
        self._tokens = count(1)

    def new_token(self) -> str:
        return f"claimant-{next(self._tokens)}"

    def owns(self, token: str) -> bool:  # noqa: ARG002 - a Worker's signature
        return not self.frozen
