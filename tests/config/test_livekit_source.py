"""`kind = "livekit"`: what it needs, what it takes, and what it is without."""

from __future__ import annotations

import pytest

from bridge.config.template import render
from bridge.rules.signing import generate_secret
from tests.config.conftest import LoadText, ProblemsIn

MEET = '[sources.meet]\nkind = "livekit"\nbase_url = "{url}"\napi_key = "k"\napi_secret = "s"\n'


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("https://x.livekit.cloud", "https://x.livekit.cloud"),
        ("wss://x.livekit.cloud/", "https://x.livekit.cloud"),
        ("ws://127.0.0.1:7880", "http://127.0.0.1:7880"),
        ("WSS://x.livekit.cloud", "https://x.livekit.cloud"),
    ],
)
def test_its_url_may_be_that_of_a_websocket(load_text: LoadText, written: str, asked: str) -> None:
    (source,) = load_text(MEET.format(url=written)).sources
    assert (source.base_url, source.api_secret) == (asked, "s")
    assert (source.requests_per_second, source.ignore_kinds, source.ignore_hidden) == (10, ("egress",), True)


def test_its_secret_can_be_kept_elsewhere_and_is_never_shown(load_text: LoadText) -> None:
    text = MEET.format(url="https://x").replace('"s"', '"env:S"') + "requests_per_second = 3\nignore_kinds = []\n"
    settings = load_text(text, {"S": "s3cr3t"})
    (source,) = settings.sources
    assert (source.api_secret, source.requests_per_second, source.ignore_kinds) == ("s3cr3t", 3, ())
    assert "s3cr3t" not in repr(settings) + repr(source)


def test_what_is_missing_is_named_at_the_line_of_the_table(problems_in: ProblemsIn) -> None:
    found = problems_in('\n[sources.meet]\nkind = "livekit"\n')
    key = '{0} = "…", {0} = "env:NAME" or {0}_file = "…"'
    assert [(problem.line, problem.key, problem.message) for problem in found] == [
        (2, "sources.meet.api_key", "is missing: write " + key.format("api_key")),
        (2, "sources.meet.api_secret", "is missing: write " + key.format("api_secret")),
        (2, "sources.meet.base_url", 'is missing: write base_url = "https://…"'),
    ]


def test_a_wrong_kind_is_one_mistake(problems_in: ProblemsIn) -> None:
    text = '[sources.meet]\nkind = "livekt"\napi_key = "k"\napi_secret = "s"\nignore_hidden = false\n'
    (problem,) = problems_in(text)
    assert str(problem) == ('line 2: sources.meet.kind: must be "huddle01" or "livekit"; did you mean "livekit"?')


def test_the_file_that_init_writes_for_it_loads(load_text: LoadText) -> None:
    text = render(generate_secret(bytes(32)), "livekit").replace("# ignore_kinds", "ignore_kinds")
    (source,) = load_text(text, {"LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s"}).sources
    assert (source.kind, source.api_key, source.api_secret, source.ignore_kinds) == ("livekit", "k", "s", ("egress",))
