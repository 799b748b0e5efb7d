"""The scanner, compared with `tomllib` for the paths and with a text search for the lines of marked values."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.config.lines import KeyPath, lines_of

Draw = Callable[[st.SearchStrategy[Any]], Any]

BARE_KEYS = st.text("abXY_-", min_size=1, max_size=4)
ODD_KEYS = st.text("ab.#\"='\\[]{}, é\t\n", max_size=4)
NOISE = st.text("ab #=[]{},'\"\\é\n\t", max_size=8)
PLAIN = st.sampled_from(
    ["1", "-3.5e2", "true", "inf", "1979-05-27 07:32:00", "1979-05-27T07:32:00Z", "0xff", "[]", "{}"]
)
GAPS = st.sampled_from(["", " ", "\t", "\n", " # a ] } , = \"\"\" ''' comment\n  "])
CONTINUATIONS = st.sampled_from(["", "\\\n   ", '\\"\\\n'])
ENDS = st.sampled_from(["\n", "\n\n", " # [no] table = 1\n", "\r\n"])
MARKER = re.compile(r"<\d+>")


class Writer:
    """Writes a random TOML document in random ways; every text value begins with a marker of its own."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.markers = 0

    def document(self) -> str:
        return self.table("", depth=0)

    def table(self, name: str, depth: int) -> str:
        keys = self.keys()
        simple = keys if depth == 3 else keys[: self.draw(st.integers(0, len(keys)))]
        text = "".join(f"{self.pair(key, depth)}{self.draw(ENDS)}" for key in simple)
        for key in keys[len(simple) :]:
            path = f"{name}{self.draw(st.sampled_from(['.', ' . ']))}{key}" if name else key
            if self.draw(st.booleans()):
                text += f"[{path}]{self.draw(ENDS)}{self.table(path, depth + 1)}"
            else:
                for _ in range(self.draw(st.integers(1, 3))):
                    text += f"[[ {path} ]]{self.draw(ENDS)}{self.table(path, depth + 1)}"
        return text

    def pair(self, key: str, depth: int) -> str:
        dots = "".join(f".{self.keys(1)[0]}" for _ in range(self.draw(st.integers(0, 2))))
        return f"{key}{dots}{self.draw(st.sampled_from(['=', ' = ']))}{self.value(depth)}"

    def value(self, depth: int) -> str:
        kinds = [self.text, lambda: self.draw(PLAIN)]
        if depth < 3:
            kinds += [lambda: self.array(depth + 1), lambda: self.inline_table(depth + 1)]
        kind: Callable[[], str] = self.draw(st.sampled_from(kinds))
        return kind()

    def array(self, depth: int) -> str:
        items = [f"{self.draw(GAPS)}{self.value(depth)}{self.draw(GAPS)}" for _ in range(self.draw(st.integers(0, 3)))]
        comma = "," if items and self.draw(st.booleans()) else ""
        return f"[{','.join(items)}{comma}{self.draw(GAPS)}]"

    def inline_table(self, depth: int) -> str:
        return "{ " + ", ".join(self.pair(key, depth) for key in self.keys()) + " }"

    def text(self) -> str:
        self.markers += 1
        content = f"<{self.markers}>{self.draw(NOISE)}"
        match self.draw(st.integers(0, 3)):
            case 0 if "'" not in content and "\n" not in content:
                return f"'{content}'"
            case 1 if "'''" not in content and not content.endswith("'''"):
                return f"'''{content}{self.draw(st.sampled_from(['', chr(10)]))}'''"
            case 2:
                escaped = content.replace("\\", "\\\\").replace('"""', '""\\"')
                return f'"""{escaped}{self.draw(CONTINUATIONS)}"""'
            case _:
                return json.dumps(content)

    def keys(self, count: int | None = None) -> list[str]:
        lists = st.lists(st.one_of(BARE_KEYS, ODD_KEYS), unique=True, min_size=count or 0, max_size=count or 3)
        keys: list[str] = self.draw(lists)
        return [key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else self.quoted(key) for key in keys]

    def quoted(self, key: str) -> str:
        literal = "'" not in key and "\n" not in key and self.draw(st.booleans())
        return f"'{key}'" if literal else json.dumps(key)


@st.composite
def toml_texts(draw: Draw) -> str:
    return Writer(draw).document()


def everything_in(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from everything_in(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from everything_in(item, (*path, index))


@settings(deadline=None)
@given(toml_texts())
def test_the_scanner_finds_every_path_of_tomllib_on_its_line(text: str) -> None:
    document = dict(everything_in(tomllib.loads(text)))
    lines = lines_of(text)
    assert set(lines) == set(document)
    for path, value in document.items():
        if isinstance(value, str) and (marker := MARKER.match(value)):
            assert lines[path] == text.count("\n", 0, text.index(marker.group())) + 1


def test_tables_arrays_and_items_have_the_line_on_which_they_begin() -> None:
    text = """\
# a comment
[a.b]
x.y = 1
z = [
  "one",  # first
  { deep = [1,
    2] },
]
[[rooms]]
[rooms.more]
[[rooms]]
"""
    assert lines_of(text) == {
        ("a",): 2,
        ("a", "b"): 2,
        ("a", "b", "x"): 3,
        ("a", "b", "x", "y"): 3,
        ("a", "b", "z"): 4,
        ("a", "b", "z", 0): 5,
        ("a", "b", "z", 1): 6,
        ("a", "b", "z", 1, "deep"): 6,
        ("a", "b", "z", 1, "deep", 0): 6,
        ("a", "b", "z", 1, "deep", 1): 7,
        ("rooms",): 9,
        ("rooms", 0): 9,
        ("rooms", 0, "more"): 10,
        ("rooms", 1): 11,
    }


@pytest.mark.parametrize("text", ["a", "a =", "a = [", "[a", 'a = "', "= 1", "a = {b", "]"])
def test_a_text_that_is_not_toml_ends_the_scan(text: str) -> None:
    assert len(lines_of(text)) <= 2


def test_nesting_that_is_too_deep_ends_the_scan() -> None:
    assert lines_of("a = 1\nb = " + "[" * 100_000)["a",] == 1
