"""What an endpoint's secret and headers must read_health like: the rules of `webhooks.signing`, said for one setting each."""

from __future__ import annotations

from typing import Final

from bridge.events.formats import Format
from bridge.rules.signing import InvalidHeaderError, check_header, parse_secret

STYLES: Final = tuple(style.value for style in Format)
SIGNATURES: Final = ("v1", "v1a")

_PREFIXES: Final = {"v1": "whsec_", "v1a": "whsk_"}


def check_secret(secret: str, *, style: str, signature: str) -> None:
    """A secret must fit the signature it is used for; Huddle01's own signature takes any text.

    Raises:
        ValueError: with a sentence that never repeats the secret.
    """
    if style == Format.HUDDLE01:
        return
    if not secret.startswith(_PREFIXES[signature]):
        raise ValueError(f'must start with {_PREFIXES[signature]}, for signature = "{signature}"{_other(secret)}')
    parse_secret(secret)


def check_header_name(name: str) -> None:
    """A header of an endpoint's own must be one that the bridge and HTTP leave free.

    Raises:
        ValueError: with a sentence for the operator.
    """
    check_header(name, "")


def check_header_value(value: str) -> None:
    """What is sent as a header must not be able to start another one.

    Raises:
        ValueError: with a sentence that never repeats the value.
    """
    try:
        check_header("x", value)
    except InvalidHeaderError:
        raise ValueError("must be printable ASCII without line breaks") from None


def _other(secret: str) -> str:
    signature = next((known for known, prefix in _PREFIXES.items() if secret.startswith(prefix)), None)
    return "" if signature is None else f'; this one is for signature = "{signature}"'
