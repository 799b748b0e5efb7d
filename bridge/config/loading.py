"""From `bridge.toml`, environment and flags to settings, or to every problem at once (CONTRACT section 3)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bridge.config.building import build
from bridge.config.document import Document
from bridge.config.environment import apply_environment, apply_overrides
from bridge.config.models import Configuration
from bridge.config.references import read_secret_file, resolve_secrets
from bridge.config.report import problems_in
from bridge.config.rules import broken_rules, forbidden_urls
from bridge.config.settings import Settings
from bridge.errors import ConfigurationError, Problem

ENCRYPTION_KEY: Final = "BRIDGE_ENCRYPTION_KEY"
_SYNTAX_PLACE: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
NO_FILE: Final = "configuration"


def load(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object] = {}) -> Settings:
    """Read, lay over each other, check.

    Args:
        path: the file; None for a configuration from environment and flags alone.
        env: the environment; `BRIDGE__…` variables are keys, `"env:NAME"` values are looked up here.
        overrides: what flags say, by dotted key (`web.listen`); None means "not given".

    Raises:
        ConfigurationError: with every problem, in the order of the file.
    """
    document = Document(name=NO_FILE, tree={}) if path is None else _read(path)
    problems = [*apply_environment(document, env), *apply_overrides(document, overrides)]
    unresolved, emptied = resolve_secrets(document, env)
    problems += [*unresolved, *broken_rules(document)]
    encryption_keys: tuple[str, ...] = ()
    try:
        encryption_keys = _encryption_keys(env)
    except ValueError as error:
        problems.append(Problem(key=ENCRYPTION_KEY, message=str(error)))
    try:
        tables = Configuration.model_validate(document.tree)
    except ValidationError as error:
        problems += problems_in(error, document, emptied)
    wrong = {problem.key for problem in problems}
    problems += [problem for problem in forbidden_urls(document) if problem.key not in wrong]
    if problems:
        raise ConfigurationError(document.name, tuple(sorted(problems, key=_place)))
    return build(tables, encryption_keys, has_file=path is not None)


def _read(path: Path) -> Document:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _unreadable(path, "does not exist: `bridge init` writes one, --config names another") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _unreadable(path, "is not UTF-8 text", line) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise _unreadable(path, f"cannot be read: {reason}") from None
    return Document(name=str(path), tree=_parse(path, text), text=text)


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _unreadable(path, "is nested too deeply") from None
    except ValueError as error:
        message = str(error)
        if (place := _SYNTAX_PLACE.search(message)) is None:
            raise _unreadable(path, f"is not valid TOML: {message}") from None
        line = int(place["line"] or text.rstrip().count("\n") + 1)
        column = f" at column {place['column']}" if place["column"] else " at the end"
        raise _unreadable(path, f"not valid TOML: {message[: place.start()]}{column}", line) from None


def _unreadable(path: Path, message: str, line: int | None = None) -> ConfigurationError:
    return ConfigurationError(str(path), (Problem(key="", message=message, line=line),))


def _encryption_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """The keys for encryption at rest, current one first, from the variable or the file that it names."""
    file = env.get(f"{ENCRYPTION_KEY}_FILE")
    if file is not None and ENCRYPTION_KEY in env:
        raise ValueError(f"is given twice, as {ENCRYPTION_KEY} and as {ENCRYPTION_KEY}_FILE: keep one")
    text = read_secret_file(file) if file is not None else env.get(ENCRYPTION_KEY)
    if text is None:
        return ()
    keys = tuple(key.strip() for key in text.split(","))
    if not all(keys):
        raise ValueError("has an empty key: write keys with commas between them, or leave the variable out")
    return keys


def _place(problem: Problem) -> tuple[bool, int, str]:
    return problem.line is None, problem.line or 0, problem.key
