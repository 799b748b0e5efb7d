"""Every kind of source in the table can be opened by its name."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bridge.sources.kinds import KINDS, open_source
from bridge.sources.protocol import SourceSettings


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_can_be_opened(kind: str) -> None:
    settings = SourceSettings(
        name="main", kind=kind, base_url="https://upstream.example", api_key="key", api_secret="secret"
    )

    source = open_source(settings, lambda: datetime.now(UTC))

    assert source.name == "main"
    await source.aclose()
