"""The documentation as its tests read it: code blocks, tables, links and commands of a Markdown page.

A code block that a test looks for has a name: an HTML comment in the line before it, which readers do not see.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
API = ROOT / "docs/api.md"
EVENTS = ROOT / "docs/events.md"
DELIVERY = ROOT / "docs/delivery.md"
VERIFYING = ROOT / "docs/verifying.md"
OPERATIONS = ROOT / "docs/operations.md"
SIMULATOR = ROOT / "docs/simulator.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
PAGES = (README, CONTRIBUTING, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?:^<!-- (?P<name>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^(?P<level>#+) (?P<title>.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")

Row = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    name: str | None
    language: str
    text: str


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """Every code block, in order."""
    return [
        Block(name=found["name"], language=found["language"], text=found["text"])
        for found in _BLOCK.finditer(read(page))
    ]


def block(page: Path, name: str) -> str:
    """The text of the one code block of that name."""
    found = [each.text for each in blocks(page) if each.name == name]
    assert len(found) == 1, f"{page.name} has {len(found)} code blocks named {name!r}"
    return found[0]


def with_block(text: str, name: str, content: str) -> str:
    """A page's text with other content in the block of that name."""
    return re.sub(
        rf"(^<!-- {re.escape(name)} -->\n```\w*\n).*?(^```$)",
        lambda found: f"{found[1]}{content}\n{found[2]}",
        text,
        flags=re.MULTILINE | re.DOTALL,
    )


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _BLOCK.sub("", read(page))


def section(page: Path, title: str) -> str:
    """The text under a heading, up to the next one of its level or above; without code blocks."""
    text = prose(page)
    headings = list(_HEADING.finditer(text))
    for index, heading in enumerate(headings):
        if heading["title"] == title:
            later = (next_.start() for next_ in headings[index + 1 :] if len(next_["level"]) <= len(heading["level"]))
            return text[heading.end() : next(later, len(text))]
    raise AssertionError(f"{page.name} has no heading {title!r}")


def table(page: Path, title: str, column: str | None = None) -> list[Row]:
    """The first table under a heading (whose first column has this title): each row by the titles of its columns."""
    lines = iter(section(page, title).splitlines())
    for line in lines:
        if not line.startswith("|"):
            continue
        titles = cells(line)
        next(lines)
        rows: list[Row] = []
        for following in lines:
            if not following.startswith("|"):
                break
            rows.append(dict(zip(titles, cells(following), strict=True)))
        if column in (None, titles[0]):
            return rows
    raise AssertionError(f"{page.name} has no such table under {title!r}")


def cells(line: str) -> list[str]:
    """The cells of a row of a table; `\\|` is a bar in a cell."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def codes(text: str) -> list[str]:
    """Everything between backquotes."""
    return _INLINE.findall(text)


def links(page: Path) -> list[str]:
    """The targets of links, on other pages and outside."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    titles = (found["title"].replace("`", "") for found in _HEADING.finditer(prose(page)))
    return {_NOT_IN_ANCHORS.sub("", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path, program: str) -> Iterator[Sequence[str]]:
    """Every call of a program that the page shows, in text or in a shell block, as words without the program."""
    shown = codes(prose(page))
    for each in blocks(page):
        if each.language in ("sh", "console", ""):
            shown += [line.strip().removeprefix("$ ") for line in each.text.splitlines()]
    for text in shown:
        words = shlex.split(text.replace("…", ""), comments=True) if text.startswith(f"{program} ") else []
        if words:
            yield [word for word in words[1:] if word != "&"]
