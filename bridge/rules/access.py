"""Scopes of the tokens of the HTTP API, which of them include others, and what is stored of a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Final


class Scope(StrEnum):
    """A permission; `hooks` is that of automation platforms: REST hooks and samples."""

    READ = "read"
    HOOKS = "hooks"
    WRITE = "write"
    METRICS = "metrics"
    ADMIN = "admin"


_INCLUDED: Final[Mapping[Scope, frozenset[Scope]]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.HOOKS: frozenset({Scope.HOOKS}),
    Scope.WRITE: frozenset({Scope.READ, Scope.HOOKS, Scope.WRITE}),
    Scope.METRICS: frozenset({Scope.METRICS}),
    Scope.ADMIN: frozenset(Scope),
}


def permits(given: Iterable[Scope], required: Iterable[Scope]) -> bool:
    """Return whether a token with scopes `given` may do what one of the scopes `required` permits."""
    having = {included for scope in given for included in _INCLUDED[scope]}
    return not having.isdisjoint(required)


def digest(token: str) -> bytes:
    """Return the SHA-256 digest of a token, which is all that is stored: tokens are too random to be guessed."""
    return sha256(token.encode("utf-8", "replace")).digest()
