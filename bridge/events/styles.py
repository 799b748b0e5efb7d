"""Placeholder until the real one lands (same names)."""
from __future__ import annotations
from dataclasses import dataclass
from enum import StrEnum
class Style(StrEnum):
    STANDARD = "standard"
    FLAT = "flat"
    HUDDLE01 = "huddle01"
    CLOUDEVENTS = "cloudevents"
@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    body: bytes
    content_type: str
def render(style: Style, body: bytes) -> Rendered:
    return Rendered(body=body, content_type="application/json")
