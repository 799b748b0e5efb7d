"""Sizes of the configuration: `"500KiB"`, `"16MiB"`, or bytes."""

from __future__ import annotations

import re

LARGEST = 1024**3
"""A gibibyte."""

_FORM = re.compile(r"([0-9]{1,12})(?: ?(B|KiB|MiB|GiB))?")
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NOT_A_SIZE = 'must be a size, like "500KiB", "16MiB" or a number of bytes'


def parse_size(value: object) -> int:
    """Return the bytes that a text with a unit, or a number, means; the environment gives numbers as text.

    Raises:
        ValueError: with a sentence for the operator.
    """
    if isinstance(value, str) and (parts := _FORM.fullmatch(value.strip())) is not None:
        size = int(parts[1]) * _BYTES[parts[2] or "B"]
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise ValueError(_NOT_A_SIZE)
    if size <= 0:
        raise ValueError("must be larger than zero")
    if size > LARGEST:
        raise ValueError("is too large: the largest size is 1GiB")
    return size
