"""The line of each key in a TOML text, for messages: `tomllib` does not give it, nor does any maintained TOML reader.

`tomllib` has accepted the text before, so the scanner follows its structure without validating anything. Paths are
those of the parsed document: keys are strings, indexes of arrays are numbers. A property test compares them with the
result of `tomllib`.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from contextlib import suppress

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_BASIC = r'"(?:[^"\\\n]++|\\.)*+"'
_LITERAL = r"'[^'\n]*+'"
_KEY = re.compile(rf"[A-Za-z0-9_-]++|{_BASIC}|{_LITERAL}")
_DOT = re.compile(r"[ \t]*+(\.?)[ \t]*+")
_SCALAR = re.compile(
    r'"""(?:[^"\\]++|\\.|"{1,2}+(?!"))*+"{3,5}'
    r"|'''(?:[^']++|'{1,2}+(?!'))*+'{3,5}"
    rf"|{_BASIC}|{_LITERAL}"
    r"|[^,\]}#\n]++",
    re.DOTALL,
)


def lines_of(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of every key, table and array item of a valid TOML text.

    A text that is not valid or nested too deeply has only the lines up to that position.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    with suppress(ValueError, IndexError, RecursionError):
        scanner.scan()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._lengths: dict[KeyPath, int] = {}
        """The number of tables that each array of tables has so far."""

    def scan(self) -> None:
        table: KeyPath = ()
        while self._skip_blank():
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        *parents, last = self._keys()
        self._at += 2 if is_array else 1
        path: KeyPath = ()
        for key in parents:
            path = self._newest((*path, key), start)
        path = (*path, last)
        if is_array:
            self._lengths[path] = self._lengths.get(path, 0) + 1
        return self._newest(path, start)

    def _newest(self, path: KeyPath, offset: int) -> KeyPath:
        """Return the table that a key of a header refers to; in an array of tables it is the last one."""
        self._note(path, offset)
        if path in self._lengths:
            path = (*path, self._lengths[path] - 1)
            self._note(path, offset)
        return path

    def _pair(self, table: KeyPath) -> None:
        start, path = self._at, table
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        match self._text[self._at]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                self._take(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while not self._closed("]"):
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._closed("}"):
            self._pair(path)

    def _closed(self, bracket: str) -> bool:
        """Step over the comma to the next item, or over the closing bracket."""
        self._skip_blank()
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip_blank()
        if self._text.startswith(bracket, self._at):
            self._at += 1
            return True
        return False

    def _keys(self) -> list[str]:
        self._take(_DOT)
        keys = [self._key()]
        while "." in self._take(_DOT):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        key = self._take(_KEY)
        return str(tomllib.loads(f"key = {key}")["key"]) if key[0] in "\"'" else key

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("not valid TOML")
        self._at = match.end()
        return match.group()

    def _skip_blank(self) -> bool:
        self._take(_BLANK)
        return self._at < len(self._text)

    def _note(self, path: KeyPath, offset: int) -> None:
        self.lines.setdefault(path, self._line(offset))

    def _line(self, offset: int) -> int:
        return bisect_left(self._ends, offset) + 1
