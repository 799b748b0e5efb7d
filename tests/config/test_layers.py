"""Flag > environment > file > default, key by key, and the forms of environment variables."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.config import ListenAddress, load
from bridge.config.keys import every_key
from bridge.config.models import Settings
from bridge.errors import ConfigurationError
from tests.config.conftest import LoadText, ProblemsIn

SOURCE = '[sources.main]\napi_key = "k"\n'
ENDPOINT = '[[endpoints]]\nname = "crm"\nurl = "https://crm.example.com/"\n'
TOKEN = '[[web.tokens]]\nname = "ops"\ntoken = "t"\nscopes = ["read"]\n'
INVALID_FOR_EVERY_KEY = "\x07"


def test_each_layer_wins_over_the_one_below(load_text: LoadText) -> None:
    file = '[polling]\ninterval = "20s"\nleave_after_missed = 2\n[log]\nlevel = "error"\n'
    env = {"BRIDGE__POLLING__INTERVAL": "30s", "BRIDGE__LOG__LEVEL": "warning"}
    settings = load_text(file, env, {"log.level": "debug"})
    assert settings.log.level == "debug"
    assert settings.polling.interval == timedelta(seconds=30)
    assert settings.polling.policy.leave_after_missed == 2
    assert settings.log.format == "auto"


def test_a_flag_may_be_a_text_or_a_value(load_text: LoadText) -> None:
    settings = load_text("", overrides={"web.listen": "[::1]:0", "polling.leave_after_missed": 3, "bridge.name": "7"})
    assert settings.web.listen == ListenAddress(host="::1", port=0)
    assert settings.polling.policy.leave_after_missed == 3
    assert settings.bridge.name == "7"


def test_items_of_a_list_are_filled_in_order_past_nine() -> None:
    env = {f"BRIDGE__ROOMS__{index}__ID": f"room-{index}" for index in range(12)}
    settings = load(None, env | {"BRIDGE__SOURCES__MAIN__API_KEY": "k"})
    assert [room.upstream_id for room in settings.rooms] == [f"room-{index}" for index in range(12)]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('["5s", 10]', (timedelta(seconds=5), timedelta(seconds=10))),
        ("['5s', 10, ]", (timedelta(seconds=5), timedelta(seconds=10))),
        ("[]", ()),
    ],
)
def test_lists_are_json_or_toml_values(written: str, read: tuple[timedelta, ...]) -> None:
    assert load(None, {"BRIDGE__DELIVERY__REFUSED_SCHEDULE": written}).delivery.policy.refused_schedule == read


@pytest.mark.parametrize("written", ['{"api_key": "k", "timeout": "2s"}', '{ api_key = "k", timeout = "2s" }'])
def test_a_table_is_json_or_toml_and_merges_with_the_file(load_text: LoadText, written: str) -> None:
    (source,) = load_text("[sources.main]\nmax_concurrency = 3\n", {"BRIDGE__SOURCES__MAIN": written}).sources
    assert (source.api_key, source.timeout, source.max_concurrency) == ("k", timedelta(seconds=2), 3)


def test_a_list_from_the_environment_replaces_the_list_of_the_file(load_text: LoadText) -> None:
    settings = load_text(SOURCE + '[[rooms]]\nid = "a"\n[[rooms]]\nid = "b"\n', {"BRIDGE__ROOMS": '[{"id": "c"}]'})
    assert [room.upstream_id for room in settings.rooms] == ["c"]


def test_a_variable_for_a_key_wins_over_one_for_its_table(load_text: LoadText) -> None:
    env = {"BRIDGE__SOURCES__MAIN__TIMEOUT": "3s", "BRIDGE__SOURCES__MAIN": '{"timeout": "9s"}'}
    assert load_text(SOURCE, env).sources[0].timeout == timedelta(seconds=3)


@pytest.mark.parametrize("variable", ["BRIDGE__BRIDGE__NAME", "BRIDGE__bridge__name"])
@pytest.mark.parametrize("text", ["5", "true", '["x"]', "env:HOME"])
def test_a_text_is_not_parsed(variable: str, text: str) -> None:
    assert load(None, {variable: text}).bridge.name == text


def test_a_source_is_found_whatever_its_case_and_hyphens(load_text: LoadText) -> None:
    settings = load_text('[sources.Acme-EU]\napi_key = "file"\n', {"BRIDGE__SOURCES__ACME_EU__API_KEY": "environment"})
    assert [(source.name, source.api_key) for source in settings.sources] == [("Acme-EU", "environment")]


def test_variables_with_one_underscore_are_not_keys() -> None:
    env = {"BRIDGE_CONFIG": "x.toml", "BRIDGE_TOKEN": "t", "BRIDGE_NONSENSE": "1", "BRIDGE_ENCRYPTION_KEY": "k"}
    assert load(None, env).encryption_keys == ("k",)


@pytest.mark.parametrize("key", list(every_key(Settings)))
def test_every_key_can_come_from_the_environment(problems_in: ProblemsIn, key: str) -> None:
    parts = key.replace("NAME", "main").replace("[]", ".0").split(".")
    variable = "BRIDGE__" + "__".join(parts).upper()
    path = re.sub(r"\.0\b", "[0]", ".".join(parts))
    text = SOURCE + ENDPOINT + TOKEN + '[[rooms]]\nid = "r"\n'
    (problem,) = problems_in(text, {variable: INVALID_FOR_EVERY_KEY})
    assert problem.key.startswith(path)
    assert problem.message.endswith(f"(environment variable {variable})")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("BRIDGE__DATABSE__URL", 'databse: unknown key; did you mean "database"?'),
        ("BRIDGE__POLLING__INTERVALL", 'polling.intervall: unknown key; did you mean "interval"?'),
        ("BRIDGE__SOURCES__MAIN__APIKEY", 'sources.main.apikey: unknown key; did you mean "api_key"?'),
        ("BRIDGE__ENDPOINTS__0__URI", 'endpoints[0].uri: unknown key; did you mean "url"?'),
        ("BRIDGE__BRIDGE__NAME__X", "bridge.name: must be a text in quotes"),
        ("BRIDGE__", '"": unknown key; the keys are bridge, database, sources,'),
    ],
)
def test_a_variable_that_names_no_key_is_an_error(problems_in: ProblemsIn, variable: str, hint: str) -> None:
    (problem,) = problems_in(SOURCE + ENDPOINT, {variable: "secret-looking value"})
    assert str(problem).startswith(hint)
    assert str(problem).endswith(f"(environment variable {variable})")


def test_a_source_without_a_name_is_an_error(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in("", {"BRIDGE__SOURCES____API_KEY": "k"})
    assert problem.key == 'sources.""'
    assert problem.message.startswith("a source's name is 1 to 64 letters")


@pytest.mark.parametrize("item", ["2", "CRM", "-1", "1" * 5_000])
def test_a_variable_that_leaves_a_gap_in_a_list_is_an_error(problems_in: ProblemsIn, item: str) -> None:
    (problem,) = problems_in(SOURCE + ENDPOINT, {f"BRIDGE__ENDPOINTS__{item}__URL": "secret-looking value"})
    assert problem.key == f"BRIDGE__ENDPOINTS__{item}__URL"
    assert problem.message == "no such item: the items of a list are numbered from 0, without gaps"


def test_an_item_of_a_list_of_values_can_be_replaced(load_text: LoadText) -> None:
    settings = load_text("[delivery]\nrefused_schedule = [1, 2]\n", {"BRIDGE__DELIVERY__REFUSED_SCHEDULE__1": "5s"})
    assert settings.delivery.policy.refused_schedule == (timedelta(seconds=1), timedelta(seconds=5))


def test_a_flag_that_names_no_key_is_an_error(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in("", overrides={"web.lissten": ":80"})
    assert str(problem) == 'web.lissten: unknown key; did you mean "listen"? (given on the command line)'


def test_a_problem_outside_the_file_has_its_origin_instead_of_a_line(problems_in: ProblemsIn) -> None:
    text = '[polling]\ninterval = "1s"\nleave_after_missed = 0\n[log]\nlevel = "info"\n'
    in_file, flag, env = problems_in(text, {"BRIDGE__POLLING__INTERVAL": "soon"}, {"log.level": "loud"})
    assert (in_file.key, in_file.line) == ("polling.leave_after_missed", 3)
    assert (flag.key, flag.line) == ("log.level", None)
    assert flag.message.endswith("(given on the command line)")
    assert (env.key, env.line) == ("polling.interval", None)
    assert env.message.endswith("(environment variable BRIDGE__POLLING__INTERVAL)")


def test_a_mistake_in_a_replacement_has_the_origin_of_the_replacement(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(SOURCE + '[[rooms]]\nid = "a"\n', {"BRIDGE__ROOMS": '[{"id": ""}]'})
    assert (problem.key, problem.line) == ("rooms[0].id", None)
    assert "(environment variable BRIDGE__ROOMS)" in problem.message


def test_a_flag_that_replaced_the_environment_is_the_origin(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(SOURCE, {"BRIDGE__ROOMS__0__ID": "a"}, {"rooms": [{"id": ""}]})
    assert problem.message.endswith("(given on the command line)")


def test_a_missing_key_has_the_origin_of_its_table(problems_in: ProblemsIn) -> None:
    in_env = '[{"url": "https://a.example.com/"}]'
    in_file, replaced = (
        problems_in(text, env)[0]
        for text, env in (
            ("[[endpoints]]\n", {"BRIDGE__ENDPOINTS__0__NAME": "a"}),
            (ENDPOINT, {"BRIDGE__ENDPOINTS": in_env}),
        )
    )
    assert str(in_file) == "line 1: endpoints[0].url: is missing"
    assert str(replaced) == "endpoints[0].name: is missing (environment variable BRIDGE__ENDPOINTS)"


def test_a_missing_key_of_a_table_from_the_environment_names_a_variable_of_the_table(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in("", {"BRIDGE__ENDPOINTS__0__NAME": "a"})
    assert str(problem) == "endpoints[0].url: is missing (environment variable BRIDGE__ENDPOINTS__0__NAME)"


def test_a_table_from_the_environment_replaces_another_value_in_the_file(load_text: LoadText) -> None:
    (source,) = load_text("sources = 5\n", {"BRIDGE__SOURCES__MAIN__API_KEY": "k"}).sources
    assert source.api_key == "k"


def test_a_value_that_is_neither_json_nor_toml_has_a_message_for_its_type(problems_in: ProblemsIn) -> None:
    env = {
        "BRIDGE__ENDPOINTS__0__EVENTS": "peer.joined,peer.left",
        "BRIDGE__DELIVERY__ALLOW_HTTP": "yes",
        "BRIDGE__SOURCES__MAIN__MAX_CONCURRENCY": "1\nb = 2",
        "BRIDGE__WEB": "[" * 100_000,
    }
    found = {problem.key: problem.message.partition(" (")[0] for problem in problems_in(SOURCE + ENDPOINT, env)}
    assert found == {
        "endpoints[0].events": 'must be a list, like ["…", "…"]',
        "delivery.allow_http": "must be true or false",
        "sources.main.max_concurrency": "must be a whole number",
        "web": "must be a table",
    }


def test_no_file_is_fine_but_a_named_file_must_be_there(tmp_path: Path) -> None:
    assert load(None, {}).rooms == ()
    with pytest.raises(ConfigurationError, match=r"none\.toml: does not exist: `bridge init` writes one"):
        load(tmp_path / "none.toml", {})
