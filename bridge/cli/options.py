"""Options that many commands share, and how they find the configuration and the database."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Annotated

import typer

from bridge.config import NO_FILE, Settings, load
from bridge.config.checks import check_event_glob
from bridge.config.durations import parse_duration
from bridge.config.environment import PREFIX
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.db.engine import Database, sqlite_file
from bridge.db.migrate import ensure_schema
from bridge.errors import NotFoundError, UsageError
from bridge.sources.protocol import SourceSettings

DEFAULT_CONFIG = Path("bridge.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="BRIDGE_CONFIG", help="The configuration file; default ./bridge.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SourceOption = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="The room's source, if several have a room of this id.")
]
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="How many at most, the newest first.")
]
RoomFilter = Annotated[str | None, typer.Option("--room", metavar="ROOM", help="Only those of this room.")]
TypeFilter = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="GLOBS", help='Only these types, like "peer.*"; repeat, or separate with commas.'),
]
SinceFilter = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="Only what was recorded since: 2026-11-23T09:30:00Z, or 2h (ago)."),
]
UntilFilter = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Only what was recorded before.")]


def load_settings(config: Path | None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Load the configuration that the options name; without a file, what the environment says may be all of it.

    Raises:
        ConfigurationError: with every problem in it.
    """
    return load(find_file(config), os.environ, overrides or {})


def name_of(config: Path | None) -> str:
    """What messages call the configuration that `load_settings` loads."""
    return str(find_file(config) or NO_FILE)


def find_file(config: Path | None) -> Path | None:
    """The configuration file; None if there is none and the environment has something to say instead."""
    if config is not None:
        return config
    only_environment = not is_there(DEFAULT_CONFIG) and any(name.startswith(PREFIX) for name in os.environ)
    return None if only_environment else DEFAULT_CONFIG


@contextmanager
def open_database(settings: Settings, *, create: bool = False) -> Iterator[Database]:
    """The configured database, with a schema that this version can work with.

    Args:
        settings: Say which.
        create: Make a SQLite file that is not there; who only looks must not, least of all in the wrong directory.

    Raises:
        NotFoundError: there is no database yet.
        SchemaError: the schema is outdated, or newer than this program.
    """
    if not create and (missing := missing_file(settings)) is not None:
        raise NotFoundError(
            f"there is no database {missing} yet: `bridge run` makes it, or `bridge migrate`; "
            "if there should be one, change to its directory or correct database.url"
        )
    database = Database(settings.database.url)
    try:
        ensure_schema(database)
        yield database
    finally:
        database.close()


def missing_file(settings: Settings) -> Path | None:
    """The file of a SQLite database if it does not exist; to read_health at it through the driver would create it."""
    file = sqlite_file(settings.database.url)
    return None if file is None or is_there(file) else file


def is_there(path: Path) -> bool:
    """Whether there is such a file; what may not even be looked at counts as there, and says so when it is opened."""
    try:
        return path.exists()
    except OSError:
        return True


def find_account(settings: Settings, name: str) -> SourceSettings:
    """The configured source of that name.

    Raises:
        UsageError: there is none.
    """
    accounts = {account.name: account for account in settings.sources}
    if name not in accounts:
        known = did_you_mean(name, accounts) or (f"; there is {one_of(accounts)}" if accounts else "")
        raise UsageError(f"--source: there is no source {quoted(name)}{known}")
    return accounts[name]


def split_list(values: Iterable[str] | None) -> tuple[str, ...]:
    """What was given by repeating an option, or with commas, or both."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def event_globs(values: Iterable[str] | None) -> tuple[str, ...]:
    """The globs of `--type`, none for every type.

    Raises:
        UsageError: one of them matches no type that there is.
    """
    globs = split_list(values)
    for glob in globs:
        try:
            check_event_glob(glob)
        except ValueError as problem:
            raise UsageError(f"--type {quoted(glob)}: {problem}") from None
    return globs


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From `since` until before `until`; None leaves that end open."""

    since: datetime | None = None
    until: datetime | None = None


def parse_period(since: str | None, until: str | None, *, now: datetime, zone: tzinfo) -> Period:
    """What `--since` and `--until` mean.

    Raises:
        UsageError: one is not a time, or they are the wrong way round.
    """
    period = Period(
        since=None if since is None else parse_moment("--since", since, now=now, zone=zone),
        until=None if until is None else parse_moment("--until", until, now=now, zone=zone),
    )
    if period.since is not None and period.until is not None and period.until <= period.since:
        raise UsageError("--until must be later than --since: between them there is nothing")
    return period


def parse_moment(option: str, text: str, *, now: datetime, zone: tzinfo) -> datetime:
    """A time in RFC 3339, or a span before `now`; a time that does not say its zone is meant as tables print it.

    Raises:
        UsageError: it is neither.
    """
    moment = _read_time(text, zone) or _read_ago(text, now)
    if moment is None:
        raise UsageError(
            f"{option} {quoted(text)}: must be a time, like 2026-11-23T09:30:00Z, or a span before now, like 90m or 5d"
        )
    return moment


def _read_time(text: str, zone: tzinfo) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _read_ago(text: str, now: datetime) -> datetime | None:
    if text[-1:].isdecimal():
        return None  # seconds ago, an epoch, a date: a bare assign_sequences could be any of them
    try:
        return now - parse_duration(text)
    except ValueError:
        return None
