"""From `bridge.toml`, environment and flags to settings, or to a report of every mistake."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bridge.config.cross import Violation, violations
from bridge.config.environment import assign_environment
from bridge.config.layers import Layers, assign_flags
from bridge.config.models import Settings
from bridge.config.remainder import other_violations
from bridge.config.report import mistakes_in
from bridge.config.secrets import Context, read_secret_file
from bridge.errors import ConfigurationError, Problem

ENCRYPTION_KEY: Final = "BRIDGE_ENCRYPTION_KEY"
NO_FILE: Final = "configuration"
_SYNTAX_POSITION: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


def load(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object] = {}) -> Settings:
    """Read all layers and validate the result.

    Args:
        path: the file; None for a configuration from environment and flags alone.
        env: the environment: its `BRIDGE__…` variables are keys, and `"env:NAME"` refers to it.
        overrides: values of flags by dotted key (`web.listen`); None means that the flag was not given.

    Raises:
        ConfigurationError: with every problem, in the order of the file.
    """
    layers = Layers({}) if path is None else _read(path)
    problems = list(assign_environment(layers, env))
    assign_flags(layers, overrides)
    encryption_keys: tuple[str, ...] = ()
    try:
        encryption_keys = _encryption_keys(env)
    except ValueError as error:
        problems.append(Problem(key=ENCRYPTION_KEY, message=str(error)))
    context = Context(env=env, encryption_keys=encryption_keys, has_file=path is not None)
    try:
        settings = Settings.model_validate(layers.tree, context=context)
        mistakes: Iterable[Violation] = violations(settings, layers.reference)
    except ValidationError as error:
        found = list(mistakes_in(error))
        paths = [path for path, _ in found]
        mistakes = chain(found, other_violations(layers.tree, paths, context, layers.reference))
    problems += [layers.problem(*mistake) for mistake in mistakes]
    if problems:
        name = NO_FILE if path is None else str(path)
        raise ConfigurationError(name, tuple(sorted(problems, key=_position)))
    return settings


def _read(path: Path) -> Layers:
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
    try:
        return Layers(tomllib.loads(text), text)
    except RecursionError:
        raise _unreadable(path, "is nested too deeply") from None
    except ValueError as error:
        raise _syntax_error(path, text, str(error)) from None


def _syntax_error(path: Path, text: str, message: str) -> ConfigurationError:
    if (position := _SYNTAX_POSITION.search(message)) is None:
        return _unreadable(path, f"is not valid TOML: {message}")
    line = int(position["line"] or text.rstrip().count("\n") + 1)
    column = f" at column {position['column']}" if position["column"] else " at the end"
    return _unreadable(path, f"not valid TOML: {message[: position.start()]}{column}", line)


def _unreadable(path: Path, message: str, line: int | None = None) -> ConfigurationError:
    return ConfigurationError(str(path), (Problem(key="", message=message, line=line),))


def _encryption_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """The keys for encryption at rest, the current one first, from their variable or file."""
    file = env.get(f"{ENCRYPTION_KEY}_FILE")
    if file is not None and ENCRYPTION_KEY in env:
        raise ValueError(f"is given twice, as {ENCRYPTION_KEY} and as {ENCRYPTION_KEY}_FILE: keep one")
    text = read_secret_file(file) if file is not None else env.get(ENCRYPTION_KEY)
    if text is None:
        return ()
    keys = tuple(key.strip() for key in text.split(","))
    if not all(keys):
        raise ValueError("has an empty key: separate keys with single commas, or leave the variable out")
    return keys


def _position(problem: Problem) -> tuple[bool, int, str]:
    return problem.line is None, problem.line or 0, problem.key
