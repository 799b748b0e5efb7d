from __future__ import annotations

import pytest

from bridge.config.sizes import LARGEST, parse_size


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("500KiB", 512_000),
        ("16MiB", 16_777_216),
        ("1GiB", LARGEST),
        (" 16 MiB ", 16_777_216),
        ("7B", 7),
        ("1048576", 1_048_576),
        (1, 1),
    ],
)
def test_a_size_is_a_number_of_bytes(written: object, meant: int) -> None:
    assert parse_size(written) == meant


@pytest.mark.parametrize(
    "written", ["", "MiB", "16 mib", "16MB", "1.5MiB", "-1", "1e6", "\u0661", 1.5, True, None, [], {}, "1" * 13]
)
def test_an_invalid_size_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValueError, match='must be a size, like "500KiB", "16MiB" or a number of bytes'):
        parse_size(written)


@pytest.mark.parametrize(("written", "match"), [("0", "larger than zero"), (-5, "larger"), ("2GiB", "largest size is")])
def test_a_size_has_bounds(written: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse_size(written)
