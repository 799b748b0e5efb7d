"""Lives for the simulated runtime: a scenario read from a file, or a crowd left to itself.

A scenario file, TOML or JSON by its suffix, is a list of the control API's steps, each with the second it is due:

    [[steps]]
    at = 0.0
    room = "abc-defg-hij"
    do = "join"
    peer_id = "peerId-ann"
    metadata = { displayName = "Ann" }

Steps due at the same second are taken together, between two answers.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from bridge.errors import ConfigurationError, Problem, UsageError
from bridge.simulator.crowd import Crowd, room_ids
from bridge.simulator.steps import STEP, Asked, Step, perform_all, problems_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bridge.simulator.model import Simulation
    from bridge.simulator.rooms import Json


class _File(Asked):
    steps: list[dict[str, Any]]


class _Due(Asked):
    at: Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Steps that are taken together, `at` so many seconds after the start."""

    at: float
    steps: tuple[Step, ...]


Scenario = tuple[Scene, ...]


def load_scenario(path: Path) -> Scenario:
    """Read a scenario from a `.toml` or `.json` file.

    Raises:
        ConfigurationError: the file cannot be read, or names every step that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        json.dumps(document)  # TOML knows dates, which no step can carry
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(str(path), (Problem(key="", message=f"not a readable scenario: {error}"),)) from error
    return _read_scenario(document, origin=str(path))


def _read_scenario(document: Json, *, origin: str) -> Scenario:
    try:
        raw_steps = _File.model_validate(document).steps
    except ValidationError as error:
        raise ConfigurationError(origin, problems_of(error)) from error
    problems: list[Problem] = []
    timed: list[tuple[float, Step]] = []
    for assign_sequences, raw in enumerate(raw_steps):
        try:
            due = _Due.model_validate({"at": raw.get("at")})
            step = STEP.validate_python({key: value for key, value in raw.items() if key != "at"})
        except ValidationError as error:
            problems.extend(problems_of(error, key=f"steps.{assign_sequences}"))
        else:
            timed.append((due.at, step))
    if problems:
        raise ConfigurationError(origin, tuple(problems))
    timed.sort(key=_when)
    return tuple(Scene(at=at, steps=tuple(step for _, step in group)) for at, group in groupby(timed, key=_when))


def _when(timed: tuple[float, Step]) -> float:
    return timed[0]


def tell_nobody(_happening: str) -> None:
    """Keep quiet about what happens."""


async def play_scenario(
    simulation: Simulation, scenario: Scenario, *, tell: Callable[[str], None] = tell_nobody
) -> None:
    """Play a scenario to its end, in the time of the machine; `tell` hears of every step.

    Raises:
        NotFoundError: a step names a peer who is not there.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    for scene in scenario:
        await asyncio.sleep(max(0.0, start + scene.at - loop.time()))
        perform_all(simulation, scene.steps)
        for step in scene.steps:
            tell(f"{step.room or 'everywhere'}: {step.do}")


async def play_random(
    simulation: Simulation,
    seed: int | str,
    rooms: int | Sequence[str] = 3,
    rate: float = 1.0,
    *,
    tell: Callable[[str], None] = tell_nobody,
) -> None:
    """Keep a crowd going until cancelled: about `rate` happenings a second in these rooms, or in that many of new ones.

    The new ones' ids are `crowd.room_ids(seed, rooms)`; `tell` hears of everything that happens.

    Raises:
        UsageError: there is no room to be in, or the rate is not a positive assign_sequences.
    """
    names = room_ids(seed, rooms) if isinstance(rooms, int) else rooms
    if not names or not rate > 0:
        raise UsageError(f"a crowd needs a room and a rate above 0, not {len(names)} rooms at {rate} a second")
    crowd = Crowd(simulation, seed=seed, rooms=names)
    while True:
        tell(crowd.step())
        await asyncio.sleep(crowd.pause(rate))
