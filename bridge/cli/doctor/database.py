"""The database as `bridge doctor` finds it: there, writable, migrated, with room to grow, and its secrets readable."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bridge.admin.inventory import DatabaseLook, EncryptedText, ReadOnlyDatabase, Stock, look_at_database, take_stock
from bridge.cli.doctor.findings import Check, Finding, fail, ok, run_aside, warn
from bridge.cli.options import is_there, missing_file
from bridge.cli.output import count_of
from bridge.config import Settings
from bridge.db.encryption import SecretCipher
from bridge.db.engine import sqlite_file
from bridge.db.migrate import ensure_schema
from bridge.errors import BridgeError, DatabaseError, SchemaError

SECONDS: Final = 5
FREE_BYTES: Final = 100 * 1024 * 1024
_NO_HEADERS: Final = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found, and what there is to examine further: None unless it could be read."""

    findings: Sequence[Finding]
    stock: Stock | None = None


async def check_database(settings: Settings) -> Examined:
    """Examine the database and everything that depends on it alone."""
    subject, obstacle = settings.database.shown_url, _file_obstacle(settings)
    found = [*_check_space(settings), *_check_key(settings)]
    if missing_file(settings) is not None:
        if obstacle is not None:
            return Examined(findings=[*found, fail(Check.DATABASE, subject, *obstacle)])
        fresh = warn(Check.SCHEMA, None, "no database yet", "`bridge run` makes it, or `bridge migrate`")
        return Examined(findings=[*found, ok(Check.DATABASE, subject, "can be made here"), fresh])
    database = ReadOnlyDatabase(settings.database.url)
    try:
        read_health, schema, stock = await run_aside(partial(_read, database), SECONDS)
    except (TimeoutError, DatabaseError) as error:
        if (unreadable := _unreadable(settings)) is not None:
            return Examined(findings=[*found, fail(Check.DATABASE, subject, *unreadable)])
        detail = f"no response within {SECONDS} s" if isinstance(error, TimeoutError) else _plain(error, database)
        return Examined(findings=[*found, fail(Check.DATABASE, subject, detail, _remedy(settings))])
    found += [_judge_look(subject, read_health, obstacle), schema]
    if stock is not None:
        found += check_secrets(stock.ciphertext, SecretCipher(settings.encryption_keys))
    return Examined(findings=found, stock=stock)


def judge_space(subject: str, free: int) -> Finding:
    """Whether a disk with so many free bytes will do."""
    megabytes = f"{free // 1_000_000:,} MB free"
    if free < FREE_BYTES:
        return warn(Check.DISK, subject, f"only {megabytes}", "make room: a full disk stops polling and delivering")
    return ok(Check.DISK, subject, megabytes)


def check_secrets(ciphertext: Sequence[EncryptedText], cipher: SecretCipher) -> list[Finding]:
    """Whether all that was ciphertext can be opened with the listed keys, and what is still in clear."""
    lost = [text for text in ciphertext if _opened(text, cipher) is None]
    found = [
        fail(
            Check.SECRETS,
            text.endpoint,
            f"its {text.what} cannot be opened: ciphertext with a key that is not listed",
            "add the old key to BRIDGE_ENCRYPTION_KEY, behind the new one and a comma",
        )
        for text in lost
    ]
    clear = {text.endpoint for text in ciphertext if _opened(text, SecretCipher()) not in (None, _NO_HEADERS)}
    if cipher.encrypts and clear:
        detail = f"in clear, stored before there was a key: {', '.join(sorted(clear))}"
        found.append(warn(Check.SECRETS, None, detail, "start or reload the service with the key: it encrypts them"))
    return found or [ok(Check.SECRETS, None, f"{count_of(len(ciphertext), 'stored text')} can be opened")]


def _opened(text: EncryptedText, cipher: SecretCipher) -> str | None:
    try:
        return cipher.open(text.ciphertext)
    except BridgeError:
        return None


def _read(database: ReadOnlyDatabase) -> tuple[DatabaseLook, Finding, Stock | None]:
    """Look, in a thread."""
    try:
        read_health = database.read_now(look_at_database)
        if read_health.schema.is_current:
            current = ok(Check.SCHEMA, None, f"{read_health.schema.current} is current")
            return read_health, current, database.read_now(take_stock)
        return read_health, _judge_schema(database, read_health), None
    finally:
        database.close()


def _judge_schema(database: ReadOnlyDatabase, read_health: DatabaseLook) -> Finding:
    if read_health.schema.is_fresh:
        if database.dialect == "sqlite":
            return warn(Check.SCHEMA, None, "an empty database", "`bridge run` fills it, or `bridge migrate`")
        return fail(Check.SCHEMA, None, "an empty database", "run `bridge migrate`")
    try:
        ensure_schema(database)
    except SchemaError as error:
        problem, _, advice = _plain(error, database).partition(": ")
        return fail(Check.SCHEMA, None, problem, advice)
    return ok(Check.SCHEMA, None, f"{read_health.schema.head} is current")  # migrated between the two looks


def _judge_look(subject: str, read_health: DatabaseLook, obstacle: tuple[str, str] | None) -> Finding:
    if read_health.obstacle is not None:
        obstacle = read_health.obstacle, "name the primary, or give the user the right to write"
    if obstacle is not None:
        return fail(Check.DATABASE, subject, *obstacle)
    return ok(Check.DATABASE, subject, f"{read_health.version}, can be read and written")


def _check_space(settings: Settings) -> list[Finding]:
    file = _file(settings)
    if file is None or not file.parent.is_dir():
        return []
    return [judge_space(str(file.parent), shutil.disk_usage(file.parent).free)]


def _file_obstacle(settings: Settings) -> tuple[str, str] | None:
    """Why a SQLite file could not be written to, or made, and what to do about it."""
    file = _file(settings)
    if file is None:
        return None
    if not file.parent.is_dir():
        return f"there is no directory {file.parent}", "make it, or correct database.url"
    if not may_write(file.parent):
        why = "SQLite keeps its journal beside the file"
        return f"nothing may be written into {file.parent}, and {why}", "let the bridge's user write there"
    if is_there(file) and not may_write(file):
        return "the file may only be read", "let the bridge's user write to it"
    return None


def _unreadable(settings: Settings) -> tuple[str, str] | None:
    file = _file(settings)
    if file is None or os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return None
    return "the file may not be read", "run this as the bridge's user"


def _check_mode(settings: Settings) -> list[Finding]:
    file = _file(settings)
    if settings.encryption_keys or file is None or not is_there(file) or not file.stat().st_mode & stat.S_IROTH:
        return []
    detail = f"{file.name} is readable for everybody, and holds secrets in clear"
    return [warn(Check.ENCRYPTION, None, detail, f"chmod 600 {file.name}* in its directory")]


def _file(settings: Settings) -> Path | None:
    file = sqlite_file(settings.database.url)
    try:
        return file if file is None else file.absolute()
    except OSError:
        return file  # the directory that we are in is gone


def may_write(path: Path) -> bool:
    """Whether whoever runs this may."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _check_key(settings: Settings) -> list[Finding]:
    if not settings.encryption_keys:
        advice = "set BRIDGE_ENCRYPTION_KEY to a long random text, and keep it elsewhere"
        return [warn(Check.ENCRYPTION, None, "no key: secrets are stored in clear", advice), *_check_mode(settings)]
    return [ok(Check.ENCRYPTION, None, f"secrets are encrypted ({count_of(len(settings.encryption_keys), 'key')})")]


def _remedy(settings: Settings) -> str:
    if sqlite_file(settings.database.url) is not None:
        return "correct database.url, or restore the file from a backup"
    return "start it, or correct database.url: host, port, user, password, name"


def _plain(error: BridgeError, database: ReadOnlyDatabase) -> str:
    """Without the address: the subject names it, and more safely, for a password can stand in its query too."""
    return str(error).removeprefix(f"database {database.name}").lstrip(": ")
