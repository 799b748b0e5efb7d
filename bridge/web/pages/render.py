"""Rendering of pages: templates, and formats of texts and times."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from unicodedata import category
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from bridge import __version__
from bridge.events.wording import count_of, span

JOINERS = "\u200c\u200d"
"""Without width, but part of the spelling of names and of emoji."""
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Categories of characters that control or hide text."""


def with_query(here: str, **changes: object) -> str:
    """Return a path with some of its query parameters set; None removes one."""
    path, _, query = here.partition("?")
    values = {**dict(parse_qsl(query)), **changes}
    kept = {key: value for key, value in values.items() if value not in (None, "")}
    return f"{path}?{urlencode(kept)}" if kept else path


def room_path(room_id: str, source: str | None) -> str:
    """Return the path of a room's page."""
    return with_query("/room", id=room_id, source=source)


def visible(text: str) -> str:
    """Return an untrusted name without characters that control or hide text; never empty."""
    shown = "".join(char for char in text if char in JOINERS or category(char) not in HIDDEN).strip()
    return shown if shown.strip(JOINERS) else "(no visible name)"


def without_query(url: str) -> str:
    """Return a URL without what may be secret in it: a user's password, the query."""
    parts = urlsplit(url)
    has_query = bool(parts.query)
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return f"{shown}?…" if has_query else shown


def in_words(length: float | timedelta | None) -> str:
    """Return a length of time, or a number of seconds, as text."""
    if length is None:
        return ""
    return span(length if isinstance(length, timedelta) else timedelta(seconds=length))


def moment(at: datetime | None, zone: ZoneInfo, now: datetime) -> Markup:
    """Return a `time` element: the time of today, else with its date; the tooltip has everything."""
    if at is None:
        return Markup('<span class="quiet">never</span>')
    local = at.astimezone(zone)
    is_today = local.date() == now.astimezone(zone).date()
    text = f"{local:%H:%M:%S}" if is_today else f"{local:%d %b %Y, %H:%M:%S}"
    return Markup('<time class="nowrap" datetime="{}" title="{}">{}</time>').format(
        local.isoformat(timespec="milliseconds"), f"{local:%Y-%m-%d %H:%M:%S.%f}"[:-3] + f" {zone.key}", text
    )


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("bridge.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    made.filters.update(
        printable=visible, span=in_words, count_of=count_of, without_query=without_query, urlencode=quote
    )
    made.globals.update(with_query=with_query, room_path=room_path, version=__version__)
    return made


_TEMPLATES = _environment()


def render(template: str, zone: ZoneInfo, now: datetime, **facts: Any) -> str:  # noqa: ANN401 - what templates need
    """Render a page."""

    def when(at: datetime | None) -> Markup:
        return moment(at, zone, now)

    def ago(at: datetime | None) -> str:
        return "" if at is None else span(max(now - at, timedelta()))

    return _TEMPLATES.get_template(template).render(zone=zone, now=now, when=when, ago=ago, **facts)
