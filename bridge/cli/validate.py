"""Options of `rooms add` and `endpoints add`, validated as the tables of the configuration are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from bridge.config.cross import source_problem
from bridge.config.models import EndpointTable, RoomTable, Table
from bridge.config.report import mistakes_in
from bridge.config.secrets import Context
from bridge.config.words import quoted
from bridge.delivery.endpoints import EndpointSpec
from bridge.errors import ForbiddenAddressError, UsageError
from bridge.polling.rooms import RoomSpec
from bridge.rules.egress import EgressPolicy, check_url

Model = TypeVar("Model", bound=Table)
Options = Mapping[str, object]


def check_room(options: Options, sources: Sequence[str]) -> RoomSpec:
    """Return the room of a `[[rooms]]` table with these keys.

    Raises:
        UsageError: with every mistake.
    """
    source = options.get("source")
    problem = source_problem(source if isinstance(source, str) else None, sources)
    known = [] if problem is None else [problem if source is None else f"--source: {problem}"]
    return _validate(RoomTable, options, {"id": "ROOM"}, known).spec(sources)


def check_endpoint(options: Options, egress: EgressPolicy, known: Sequence[str] = ()) -> EndpointSpec:
    """Return the endpoint of an `[[endpoints]]` table with these keys; secrets may be `env:NAME`.

    Args:
        options: The values by key; None for an option that was not given.
        egress: The addresses that may be called.
        known: Mistakes that are known already.

    Raises:
        UsageError: with every mistake, and without a secret.
    """
    problems = list(known)
    try:
        check_url(str(options["url"]), egress)
    except ForbiddenAddressError as error:
        problems.append(f"URL: {error}")
    return _validate(EndpointTable, options, {"name": "NAME", "url": "URL"}, problems).spec()


def _validate(model: type[Model], options: Options, arguments: Mapping[str, str], known: Sequence[str]) -> Model:
    problems: list[str] = []
    given = {key: value for key, value in options.items() if value is not None}
    try:
        table = model.model_validate(given, context=Context(env=os.environ))
    except ValidationError as error:
        problems += [
            f"{arguments.get(str(path[0])) or _option(path, given)}: {why}" for path, why in mistakes_in(error)
        ]
    if problems := [*problems, *known]:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    return table


def _option(path: Sequence[str | int], options: Options) -> str:
    """Return the option of a value; of several values, with the wrong one."""
    key, item = path[0], path[-1]
    if key == "headers":
        return f"--header {item}"
    if key not in options:
        key = f"{key}_file"
    option = f"--{str(key).replace('_', '-')}"
    values = options[str(key)]
    return f"{option} {quoted(str(values[item]))}" if isinstance(values, list) and isinstance(item, int) else option
