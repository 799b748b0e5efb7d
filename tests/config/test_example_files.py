"""`bridge.toml` of the repository and the file of `bridge init`: both load, and the former documents every key."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from bridge.config import load
from bridge.config.keys import every_key
from bridge.config.models import Settings
from bridge.config.template import render
from bridge.delivery.endpoints import EndpointSpec
from bridge.polling.rooms import RoomSpec
from bridge.rules.signing import generate_secret
from tests.config.conftest import LoadText, ProblemsIn

EXAMPLE = Path(__file__).parents[2] / "bridge.toml"
SECRET = generate_secret(bytes(range(32)))
KEY = {"HUDDLE01_API_KEY": "k"}
SECRETS = KEY | {
    "CRM_WEBHOOK_SECRET": SECRET,
    "BRIDGE_TOKEN": "t0ken",
    "LIVEKIT_API_KEY": "k",
    "LIVEKIT_API_SECRET": "s",
}


def with_everything_on(text: str) -> str:
    """The example without the # before keys that are off."""
    return re.sub(r"^#(?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)


def keys_in(value: object, prefix: str = "") -> Iterator[str]:
    match value:
        case dict() if value:
            for key, item in value.items():
                step = "NAME" if prefix == "sources" else key
                yield from keys_in(item, f"{prefix}.{step}" if prefix else step)
        case [dict() as item, *_]:
            yield from keys_in(item, f"{prefix}[]")
        case _:
            yield prefix


def variables_of(value: object, name: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict() if value:
            for key, item in value.items():
                yield from variables_of(item, f"{name}__{key.upper()}")
        case [dict(), *_]:
            for index, item in enumerate(value):
                yield from variables_of(item, f"{name}__{index}")
        case str():
            yield name, value
        case _:
            yield name, json.dumps(value)


def tables_of(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Settings.model_fields}


def test_the_example_documents_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    documented = set(keys_in(tomllib.loads(with_everything_on(text))))
    every = set(every_key(Settings))
    files = {key for key in every if key.endswith("_file")} - {"audit.checkpoint_file"}
    assert documented == every - files
    assert all(f"({key.rpartition('.')[2]})" in text for key in files)


def test_every_key_of_the_example_has_a_comment_or_a_plain_name() -> None:
    plain = {
        line.split(" = ")[0].removeprefix("#")
        for line in EXAMPLE.read_text(encoding="utf-8").splitlines()
        if re.match(r"#?[a-z_]+ = ", line) and "  # " not in line
    }
    assert plain <= {"kind", "base_url", "id", "url", "name", "enabled", "retry_schedule"}


def test_the_example_shows_the_defaults() -> None:
    assert tables_of(load(EXAMPLE, KEY)) == tables_of(load(None, {"BRIDGE__SOURCES__MAIN__API_KEY": "k"}))


def test_the_keys_that_are_off_in_the_example_are_valid_and_show_the_defaults(load_text: LoadText) -> None:
    text = with_everything_on(EXAMPLE.read_text(encoding="utf-8"))
    settings = load_text(text, SECRETS)
    polling, delivery = settings.polling, settings.delivery.policy
    assert settings.rooms == (
        RoomSpec(
            source="main",
            upstream_id="abc-defg-hij",
            name="Weekly stand-up",
            interval=polling.interval,
            leave_after_missed=polling.policy.leave_after_missed,
        ),
    )
    url = "https://crm.example.com/hooks/presence"
    assert settings.endpoints == (EndpointSpec(name="crm", url=url, secret=SECRET, timeout=delivery.timeout),)


def test_the_example_can_come_from_the_environment_alone(load_text: LoadText) -> None:
    text = with_everything_on(EXAMPLE.read_text(encoding="utf-8"))
    variables = dict(variables_of(tomllib.loads(text), "BRIDGE"))
    assert tables_of(load(None, SECRETS | variables)) == tables_of(load_text(text, SECRETS))


def test_the_file_that_init_writes_loads(load_text: LoadText) -> None:
    settings = load_text(render(SECRET), KEY)
    assert [(source.name, source.api_key) for source in settings.sources] == [("main", "k")]
    assert [endpoint.secret for endpoint in settings.endpoints] == [SECRET]
    assert len(settings.rooms) == 1
    assert settings.polling.interval == timedelta(seconds=10)


def test_the_keys_in_comments_in_the_file_of_init_load_too(load_text: LoadText) -> None:
    text = re.sub(r"^# (?=[a-z_]+ = )", "", render(SECRET), flags=re.MULTILINE)
    assert load_text(text, KEY).delivery.egress.allow_private_networks


def test_without_the_key_the_file_of_init_names_the_variable_to_export(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(render(SECRET))
    assert problem.key == "sources.main.api_key"
    assert problem.line is not None
    assert problem.message == "environment variable HUDDLE01_API_KEY is not set: export it before starting the bridge"
