"""Loading a configuration from a text, and the problems of one that does not load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bridge.config import Settings, load
from bridge.errors import ConfigurationError, Problem

LoadText = Callable[..., Settings]
ProblemsIn = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def load_text(tmp_path: Path) -> LoadText:
    """Load a text as `bridge.toml`, with no environment but the one given."""

    def load_it(
        text: str, env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
    ) -> Settings:
        path = tmp_path / "bridge.toml"
        path.write_text(text, encoding="utf-8", newline="")
        return load(path, env or {}, overrides or {})

    return load_it


@pytest.fixture
def problems_in(load_text: LoadText) -> ProblemsIn:
    """Every problem of a text that must not load."""

    def problems_of(
        text: str, env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
    ) -> tuple[Problem, ...]:
        with pytest.raises(ConfigurationError) as caught:
            load_text(text, env, overrides)
        return caught.value.problems

    return problems_of
