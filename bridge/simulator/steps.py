"""The steps that move the simulated runtime: what the control API, scripts and scenario files are all made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bridge.errors import Problem, UsageError
from bridge.simulator.faults import Fault
from bridge.simulator.model import Said, Simulation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge.simulator.rooms import Json, Visit


class Asked(BaseModel):
    """Something that somebody asked of the simulator; a misspelt key is an error, not a silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Arrival(Asked):
    """Who comes in. Left out: a new id, the clock's time; `omit_…` keeps a field out of the upstream's answers."""

    peer_id: str | None = None
    metadata: Any = None
    join_time: int | float | str | None = None
    omit_join_time: bool = False
    omit_metadata: bool = False


class Join(Arrival):
    """Somebody comes in."""

    do: Literal["join"]
    room: str


class Leave(Asked):
    """Somebody goes."""

    do: Literal["leave"]
    room: str
    peer_id: str


class ChangeMetadata(Asked):
    """Somebody's metadata changes."""

    do: Literal["metadata"]
    room: str
    peer_id: str
    metadata: Any


class End(Asked):
    """Everybody goes and the session is over."""

    do: Literal["end"]
    room: str


class Swap(Asked):
    """Somebody goes as somebody else comes in."""

    do: Literal["swap"]
    room: str
    leave: str
    join: Arrival


class SwitchFaults(Asked):
    """These faults and no others, in a room or (without one) everywhere."""

    do: Literal["faults"]
    room: str | None = None
    faults: list[Fault]


Step = Annotated[Join | Leave | ChangeMetadata | End | Swap | SwitchFaults, Field(discriminator="do")]
STEP: TypeAdapter[Step] = TypeAdapter(Step)


def problems_of(error: ValidationError, *, key: str = "") -> tuple[Problem, ...]:
    """What a validation found wrong, each with where it stands."""
    return tuple(
        Problem(key=".".join([*([key] if key else []), *map(str, found["loc"])]), message=found["msg"])
        for found in error.errors(include_url=False, include_input=False)
    )


def read_step(asked: Json) -> Step:
    """Understand one step.

    Raises:
        UsageError: it is not a step; the message names every problem.
    """
    try:
        return STEP.validate_python(asked)
    except ValidationError as error:
        raise UsageError("; ".join(map(str, problems_of(error)))) from error


def perform(simulation: Simulation, step: Step) -> Json:
    """Do one step, and say what a caller may want to know of it.

    Raises:
        NotFoundError: no such room, or the peer is not there.
    """
    match step:
        case Join():
            return _welcome(_let_in(simulation, step.room, step))
        case Leave():
            simulation.leave(step.room, step.peer_id)
        case ChangeMetadata():
            simulation.change_metadata(step.room, step.peer_id, step.metadata)
        case End():
            simulation.end(step.room)
        case Swap():
            simulation.leave(step.room, step.leave)
            return _welcome(_let_in(simulation, step.room, step.join))
        case SwitchFaults():
            simulation.faults.replace(step.faults, room_id=step.room)
    return {"ok": True}


def perform_all(simulation: Simulation, steps: Sequence[Step]) -> list[Json]:
    """Do all the steps between two answers, or none of them.

    Raises:
        NotFoundError: a step cannot be done; the rooms are as they were before.
    """
    moves = [step for step in steps if not isinstance(step, SwitchFaults)]
    switches = [step for step in steps if isinstance(step, SwitchFaults)]
    with simulation.all_or_nothing({step.room for step in moves}):
        done = {id(step): perform(simulation, step) for step in moves}
    done |= {id(step): perform(simulation, step) for step in switches}  # these cannot fail
    return [done[id(step)] for step in steps]


def _let_in(simulation: Simulation, room_id: str, arrival: Arrival) -> Visit:
    return simulation.join(
        room_id,
        peer_id=arrival.peer_id,
        metadata=arrival.metadata,
        join_time=arrival.join_time if "join_time" in arrival.model_fields_set else Said.BY_THE_CLOCK,
        says_join_time=not arrival.omit_join_time,
        says_metadata=not arrival.omit_metadata,
    )


def _welcome(visit: Visit) -> Json:
    return {"peerId": visit.peer_id, "joinTime": visit.join_time if visit.says_join_time else None}
