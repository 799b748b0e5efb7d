"""Checks of the database: reachable, writable, migrated, and its stored secrets decryptable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge.admin.read_only import (
    DatabaseState,
    EncryptedText,
    ReadOnlyDatabase,
    Records,
    read_records,
    read_state,
)
from bridge.cli.database import missing_file
from bridge.cli.doctor.findings import Check, Finding, fail, ok, warn
from bridge.cli.settings import exists
from bridge.config import Settings
from bridge.db.encryption import SecretCipher
from bridge.db.engine import sqlite_file
from bridge.db.schema import ensure_schema
from bridge.errors import BridgeError, DatabaseError, EncodingError, SchemaError
from bridge.events.wording import count_of

_NO_HEADERS: Final = "{}"
_KEY_ADVICE: Final = "set BRIDGE_ENCRYPTION_KEY to a long random text, and keep a copy elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFindings:
    """The findings, and the stored records if they could be read."""

    findings: Sequence[Finding]
    records: Records | None = None


async def check_database(settings: Settings) -> DatabaseFindings:
    """Check the database, and read the records that the other checks are about."""
    subject, obstacle = settings.database.shown_url, _file_obstacle(settings)
    key = [] if settings.encryption_keys else [warn(Check.SECRETS, None, "stored in clear: no key is set", _KEY_ADVICE)]
    if missing_file(settings) is not None:
        if obstacle is not None:
            return DatabaseFindings(findings=[fail(Check.DATABASE, subject, *obstacle), *key])
        fresh = warn(Check.SCHEMA, None, "no database yet", "`bridge run` or `bridge migrate` creates it")
        return DatabaseFindings(findings=[ok(Check.DATABASE, subject, "can be created here"), fresh, *key])
    database = ReadOnlyDatabase(settings.database.url)
    try:
        state = await database.read(read_state)
        records = await database.read(read_records) if state.schema.is_current else None
        schema = _check_schema(database, state)
    except EncodingError as error:
        problem, _, advice = _without_address(error, database).partition(": ")
        return DatabaseFindings(findings=[fail(Check.DATABASE, subject, problem, advice), *key])
    except DatabaseError as error:
        obstacle = _unreadable(settings) or (_without_address(error, database), _advice(settings))
        return DatabaseFindings(findings=[fail(Check.DATABASE, subject, *obstacle), *key])
    finally:
        database.close()
    found = [_check_access(subject, state, obstacle), schema, *key]
    if records is not None:
        found += check_secrets(records.texts, SecretCipher(settings.encryption_keys))
    return DatabaseFindings(findings=found, records=records)


def check_secrets(texts: Sequence[EncryptedText], cipher: SecretCipher) -> list[Finding]:
    """Check that the listed keys decrypt every stored text, and that none is in clear although there is a key."""
    locked = [
        fail(
            Check.SECRETS,
            text.endpoint,
            f"its {text.what} cannot be decrypted: the key is not listed",
            "add the old key to BRIDGE_ENCRYPTION_KEY, after the new one and a comma",
        )
        for text in texts
        if _decrypt(text, cipher) is None
    ]
    if not cipher.has_key:
        return locked
    clear = sorted({text.endpoint for text in texts if _decrypt(text, SecretCipher()) not in (None, _NO_HEADERS)})
    if clear:
        advice = "start or reload the service with the key: it encrypts them"
        return [*locked, warn(Check.SECRETS, None, f"still stored in clear: {', '.join(clear)}", advice)]
    return locked or [ok(Check.SECRETS, None, f"{count_of(len(texts), 'stored text')} can be decrypted")]


def _decrypt(text: EncryptedText, cipher: SecretCipher) -> str | None:
    try:
        return cipher.decrypt(text.ciphertext)
    except BridgeError:
        return None


def _check_schema(database: ReadOnlyDatabase, state: DatabaseState) -> Finding:
    if state.schema.is_current:
        return ok(Check.SCHEMA, None, f"{state.schema.current} is current")
    if state.schema.is_fresh:
        if database.dialect == "sqlite":
            return warn(Check.SCHEMA, None, "an empty database", "`bridge run` or `bridge migrate` fills it")
        return fail(Check.SCHEMA, None, "an empty database", "run `bridge migrate`")
    try:
        ensure_schema(database)
    except SchemaError as error:
        problem, _, advice = _without_address(error, database).partition(": ")
        return fail(Check.SCHEMA, None, problem, advice)
    return ok(Check.SCHEMA, None, f"{state.schema.head} is current")  # migrated at this moment


def _check_access(subject: str, state: DatabaseState, obstacle: tuple[str, str] | None) -> Finding:
    if state.obstacle is not None:
        obstacle = state.obstacle, "name the primary server, or grant the user the right to write"
    if obstacle is not None:
        return fail(Check.DATABASE, subject, *obstacle)
    return ok(Check.DATABASE, subject, f"{state.version}, readable and writable")


def _file_obstacle(settings: Settings) -> tuple[str, str] | None:
    """Return why a SQLite file cannot be written or created, and what to do."""
    file = _file(settings)
    if file is None:
        return None
    if not file.parent.is_dir():
        return f"there is no directory {file.parent}", "create it, or correct database.url"
    if not _may(file.parent, os.W_OK):
        return (
            f"the directory {file.parent} is not writable, and SQLite keeps its journal there",
            "let the bridge's user write to the directory",
        )
    if exists(file) and not _may(file, os.W_OK):
        return "the file is not writable", "let the bridge's user write to it"
    return None


def _unreadable(settings: Settings) -> tuple[str, str] | None:
    file = _file(settings)
    if file is None or _may(file, os.R_OK):
        return None
    return "the file is not readable", "run this command as the bridge's user"


def _file(settings: Settings) -> Path | None:
    file = sqlite_file(settings.database.url)
    try:
        return file and file.absolute()
    except OSError:
        return file  # the current directory was removed


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _advice(settings: Settings) -> str:
    if _file(settings) is not None:
        return "correct database.url, or restore the file from a backup"
    return "start the server, or correct database.url: host, port, user, password, name"


def _without_address(error: BridgeError, database: ReadOnlyDatabase) -> str:
    """Return the message without the address: the subject is safer, for a password can be in the query of a URL."""
    return str(error).removeprefix(f"database {database.name}").lstrip(": ")
