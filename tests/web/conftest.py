"""The web server in this process, without a socket: httpx calls the app over a real database of each kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.admin.tokens import TokenRecord, add_token
from bridge.config import Settings, load
from bridge.rules.access import Scope, digest
from bridge.runtime import Runtime
from bridge.web.app import create_app
from bridge.web.state import AppState
from bridge.web.tail import EventTail
from tests.harness.builders import at
from tests.harness.config import write_config
from tests.harness.store_driver import StoreDriver

ON_SQLITE = {"test_auth", "test_guard", "test_openapi", "test_pages", "test_problems"}
"""Tests of code above the database: on PostgreSQL they run in the campaign."""
BASE = "http://127.0.0.1:8080"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in ON_SQLITE and "postgresql" in item.name:
            item.add_marker(pytest.mark.campaign)


@dataclass(slots=True, kw_only=True)
class Web:
    """The app over a store, at second `now`; `client(token)` calls it, by default from this machine."""

    store: StoreDriver
    settings: Settings
    now: float = 0
    write: Callable[..., Settings]
    app: Any = field(init=False)

    def __post_init__(self) -> None:
        runtime = Runtime(now=lambda: at(self.now), new_id=self.store.new_id, jitter=lambda: 0.5)
        self.app = create_app(
            AppState(
                database=self.store.database,
                runtime=runtime,
                settings=lambda: self.settings,
                claim_token=lambda: nullcontext(self.store.token()),
                tail=EventTail(self.store.database),
            )
        )

    @property
    def state(self) -> AppState:
        state: AppState = self.app.state.state
        return state

    def configure(self, **sections: Any) -> None:  # noqa: ANN401 - arguments of write_config
        """Replace the configuration, as a reload does."""
        self.settings = self.write(**sections)

    def token(self, *scopes: str, name: str = "") -> str:
        """Store a token with these scopes, and return it."""
        given = tuple(Scope(scope) for scope in scopes)
        token = f"token-{name or '-'.join(scopes)}"
        record = TokenRecord(name=name or "-".join(scopes), scopes=given, created_at=at(self.now))
        self.store.write(add_token, record, digest(token))
        return token

    def client(self, token: str | None = None, *, address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(self.app, client=(address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)


@pytest.fixture
def web(store: StoreDriver, tmp_path: Path) -> Web:
    """No token, no room, no upstream."""

    def write(**sections: Any) -> Settings:  # noqa: ANN401 - as above
        how = {"database_url": store.database.name, "upstream": "http://127.0.0.1:1", **sections}
        return load(write_config(tmp_path / "bridge.toml", **how), {})

    return Web(store=store, settings=write(), write=write)
