"""What is added by hand is checked as if it stood in the configuration, and told by the names of its options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridge.config import Settings, load
from bridge.config.environment import PREFIX
from bridge.config.words import quoted
from bridge.delivery.endpoints import EndpointSpec
from bridge.errors import ConfigurationError, Problem, UsageError
from bridge.polling.rooms import RoomSpec
from bridge.rules.egress import EgressPolicy

_PLACE = re.compile(r"\w+\[0\](?:\.(?P<key>\w+))?(?:\[(?P<index>\d+)\]|\.(?P<below>.+))?")
_ARGUMENTS = {"id": "ROOM", "url": "URL"}
_FROM_HERE = " (given on the command line)"


def check_room(table: Mapping[str, object], sources: Iterable[str]) -> RoomSpec:
    """The room that a table of `[[rooms]]` with these keys would mean, beside these sources.

    Raises:
        UsageError: with everything that is wrong with it.
    """
    accounts = {name: {"api_key": "unused"} for name in sources}
    return _load({"rooms": [_given(table)], "sources": accounts}, table).rooms[0]


def check_endpoint(table: Mapping[str, object], egress: EgressPolicy, known: Sequence[str] = ()) -> EndpointSpec:
    """The endpoint that a table of `[[endpoints]]` with these keys would mean; secrets may be `env:NAME`.

    Args:
        table: What was given, None for what was not.
        egress: Where it may lead.
        known: What is known to be wrong with it already.

    Raises:
        UsageError: with everything that is wrong with it; it never repeats a secret.
    """
    networks = [str(network) for network in egress.allow_private_networks]
    delivery = {"allow_http": egress.allow_http, "allow_private_networks": networks}
    return _load({"endpoints": [_given(table)], "delivery": delivery}, table, known).endpoints[0]


def _given(table: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in table.items() if value is not None}


def _load(tables: Mapping[str, object], table: Mapping[str, Any], known: Sequence[str] = ()) -> Settings:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    problems = list(known)
    try:
        settings = load(None, surroundings, tables)
    except ConfigurationError as error:
        problems += [_retell(problem, table) for problem in error.problems]
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    return settings


def _retell(problem: Problem, table: Mapping[str, Any]) -> str:
    place = _PLACE.fullmatch(problem.key)
    key = place["key"] if place is not None else None
    message = problem.message.removesuffix(_FROM_HERE).replace("endpoints[0].headers.", "--header ")
    if place is None or key is None:
        return message
    if key == "name" and "url" in table:
        return f"NAME: {message}"
    option = _ARGUMENTS.get(key) or f"--{key.replace('_', '-')}"
    if place["index"] is not None:
        option += f" {quoted(str(table[key][int(place['index'])]))}"
    if key == "headers":
        option = f"--header {place['below'] or ''}".rstrip()
    return f"{option}: {message}"
