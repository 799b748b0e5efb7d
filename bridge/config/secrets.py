"""Secrets: `x = "…"`, `x = "env:NAME"` or `x_file = "…"`; no message repeats their value.

They are resolved while the models are validated: only the value that wins is looked up, and a failure is reported like
any other wrong value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo

from bridge.config.words import quoted

T = TypeVar("T")

_REFERENCE: Final = "env:"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Context:
    """The pydantic validation context: the environment that `"env:NAME"` refers to, and facts that are not keys."""

    env: Mapping[str, str]
    encryption_keys: tuple[str, ...] = ()
    has_file: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    """The value of `x` for an `x_file` of the same table; `is_second` if the table has an `x` as well."""

    name: object
    is_second: bool


def with_secret_files(table: object, secrets: Iterable[str]) -> object:
    """Return the table with a `SecretFile` in place of each `x_file`."""
    if not isinstance(table, dict):
        return table
    files = {f"{key}_file": key for key in secrets if f"{key}_file" in table}
    replaced = {key: SecretFile(name=table[file], is_second=key in table) for file, key in files.items()}
    return {key: value for key, value in table.items() if key not in files} | replaced if files else table


def resolve(value: object, info: ValidationInfo[Context | None]) -> object:
    """Return the secret itself.

    Raises:
        ValueError: it cannot be found, or is given twice.
    """
    match value:
        case SecretFile(is_second=True):
            raise ValueError(f"is given twice, as {info.field_name} and as {info.field_name}_file: keep one")
        case SecretFile(name=str() as name):
            return read_secret_file(name)
        case SecretFile():
            raise ValueError("must be the name of a file, in quotes")
        case "":
            raise ValueError("is empty")
        case str() if value.startswith(_REFERENCE):
            return _variable(value.removeprefix(_REFERENCE), info.context.env if info.context is not None else {})
        case _:
            return value


SecretText = Annotated[T, BeforeValidator(resolve)]
"""A text, or `"env:NAME"`."""

Secret = Annotated[SecretText[T], Field(repr=False)]
"""A key that no `repr` shows, and that can also be given as `x_file`."""


def read_secret_file(name: str) -> str:
    """Return the text of a file without its trailing newline.

    Raises:
        ValueError: the file cannot be read, or is empty.
    """
    try:
        text = Path(name).read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the file {quoted(name)} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise ValueError(f"cannot read the file {quoted(name)}: {reason}") from None
    if not text:
        raise ValueError(f"the file {quoted(name)} is empty")
    return text


def _variable(name: str, env: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError('"env:" must be followed by the name of an environment variable')
    if name not in env:
        raise ValueError(f"environment variable {name} is not set: export it before starting the bridge")
    if not env[name]:
        raise ValueError(f"environment variable {name} is empty: give it a value")
    return env[name]
