"""Errors that the bridge raises deliberately.

A message says what is wrong, where, and what to do. The CLI prints it and exits with `exit_code`
(1 failed, 2 usage or configuration, 3 verification failed); no traceback reaches a user.
"""

from __future__ import annotations

from dataclasses import dataclass


class BridgeError(Exception):
    """An error with a message for the operator."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of the configuration: where it is and what to do about it."""

    key: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class ConfigurationError(BridgeError):
    """The configuration cannot be used; `problems` has every problem that was found."""

    exit_code = 2

    def __init__(self, origin: str, problems: tuple[Problem, ...]) -> None:
        self.origin = origin
        self.problems = problems
        super().__init__("\n".join(f"{origin}: {problem}" for problem in problems))


class UsageError(BridgeError):
    """The command cannot be carried out as given."""

    exit_code = 2


class ConflictError(UsageError):
    """The command conflicts with what is stored: a taken name, or an object that the configuration owns."""


class BusyError(BridgeError):
    """The command cannot be carried out now, but after `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(message)


class ArgumentError(UsageError):
    """One value of the command or the request does not fit the others, or what there is; `argument` is its name."""

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        super().__init__(message)


class PositionError(UsageError):
    """The position is not one of this listing."""


class NotFoundError(BridgeError):
    """Something that the command or the request names does not exist.

    Args:
        message: What is missing.
        remedy: What to do at the command line; the HTTP API leaves it out.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        super().__init__(f"{message}: {remedy}" if remedy else message)


class AmbiguousError(NotFoundError):
    """Something that the command or the request names exists more than once."""


class SchemaError(BridgeError):
    """The database's schema is not the one this version needs."""


class VerificationError(BridgeError):
    """A signature or the audit chain does not verify."""

    exit_code = 3


class ForbiddenAddressError(BridgeError):
    """A forbidden destination of deliveries (bridge.rules.egress)."""


class DatabaseError(BridgeError):
    """The database failed; `is_away`: it does not respond, or cannot be written to for now."""

    def __init__(self, message: str, *, is_away: bool) -> None:
        self.is_away = is_away
        super().__init__(message)


class EncodingError(DatabaseError):
    """The database cannot store every text."""
