from __future__ import annotations

import pytest
from sqlalchemy import make_url

from bridge.db.engine import Database
from bridge.db.postgresql_url import read_postgresql_url

WRITABLE = "target_session_attrs=read-write"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("postgresql://u:p%40@h:1/db?sslmode=require", "postgresql://u:p%40@h:1/db?sslmode=require"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql:///db?host=/tmp", "postgresql:///db?host=%2Ftmp"),
        ("postgresql://u@h1:1,h2/db", f"postgresql://u@/db?host=h1%2Ch2&port=1%2C5432&{WRITABLE}"),
        ("postgresql://[::1]:1,[::2]:2/db", f"postgresql:///db?host=%3A%3A1%2C%3A%3A2&port=1%2C2&{WRITABLE}"),
        ("postgresql://h1,h2/db?target_session_attrs=any", None),
        ("postgresql:///db?host=h1:1&host=h2:2", f"postgresql:///db?host=h1%3A1&host=h2%3A2&{WRITABLE}"),
        ("postgresql:///db?host=h1,h2&port=1,2", f"postgresql:///db?host=h1%2Ch2&port=1%2C2&{WRITABLE}"),
        ("postgresql://h/db?prepare_threshold=0", "postgresql://h/db"),
    ],
)
def test_the_url_is_one_that_sqlalchemy_reads(text: str, url: str | None) -> None:
    read = read_postgresql_url(text)

    assert url is None or read.url == url
    assert read.never_prepare == ("prepare_threshold" in text)
    assert make_url(read.url).query.get("target_session_attrs") in (None, "any", "read-write")


@pytest.mark.parametrize(
    "text", ["//h:0/db", "//h:x/db", "//h1:1,h2:y/db", "//h1:1,h2:0/db", "//h/db?prepare_threshold=5"]
)
def test_an_invalid_port_and_other_thresholds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[Pp]ort|prepare_threshold"):
        read_postgresql_url(f"postgresql:{text}")


def test_the_name_has_every_host_and_neither_it_nor_the_representation_a_password() -> None:
    database = Database("postgresql://u:secret@h1:1,h2:2/db?sslpassword=secret")

    assert database.name == "postgresql://u:***@h1,h2/db"
    assert "secret" not in repr(database)
