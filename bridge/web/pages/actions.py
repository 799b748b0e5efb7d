"""The actions of the forms: they call the handlers of the API, and go back to a page with a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from bridge.errors import BridgeError, DatabaseError
from bridge.events.wording import count_of
from bridge.rules.access import Scope, permits
from bridge.web import attendance, audit, deliveries, endpoints, people, rooms
from bridge.web.auth import requires
from bridge.web.endpoint_bodies import NewEndpoint
from bridge.web.pages.forms import SignedForm
from bridge.web.pages.render import room_path
from bridge.web.pages.view import PageView, facts_of, redirect
from bridge.web.problems import ProblemError, message_of
from bridge.web.routing import api_router
from bridge.web.state import AppState

router = api_router("", include_in_schema=False)

Form = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The page to go to and its message; a new `secret` is shown once, by the response itself."""

    path: str
    message: str
    kind: str = "good"
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action, the scope that it needs, and the page to go back to if it fails."""

    do: Callable[[AppState, Form], Awaitable[Done]]
    back: Callable[[Form], str]
    scope: Scope = Scope.WRITE


@router.post("/actions/{name:path}", dependencies=[requires(Scope.WRITE)])
async def act(view: PageView, name: str, form: SignedForm) -> Response:
    """Execute the action of a form."""
    action = ACTIONS.get(name)
    if action is None:
        raise ProblemError(404, "there is nothing at this path")
    if view.principal is None or not permits(view.principal.scopes, (action.scope,)):
        raise ProblemError(403, f"this needs a token with the scope {action.scope.value}")
    try:
        done = await action.do(view.state, form)
    except DatabaseError:
        raise
    except (BridgeError, HTTPException, ValidationError, KeyError, ValueError) as error:
        return redirect(action.back(form), _message_of(error), "bad")
    if done.secret is not None:
        return view.page("secret.html", "Endpoints", secret=done.secret, title=done.message, goes_to=done.path)
    return redirect(done.path, done.message, done.kind)


async def _add_room(state: AppState, form: Form) -> Done:
    given = {key: form[key] for key in ("room_id", "name", "source") if form.get(key)}
    response = await rooms.add(state, rooms.NewRoom.model_validate(given))
    shown = facts_of(response)
    return Done(path=room_path(shown["room_id"], shown["source"]), message="The room is tracked from now on.")


async def _remove_room(state: AppState, form: Form) -> Done:
    await rooms.remove(state, form["room_id"], form["source"])
    return Done(path="/", message=f"{form['room_id']} is no longer tracked; its log stays.")


async def _poll_room(state: AppState, form: Form) -> Done:
    result = facts_of(await rooms.poll(state, form["room_id"], form["source"]))
    outcome = str(result["outcome"]).replace("_", " ")
    detail = f": {result['detail']}" if result["detail"] else ""
    message = f"Polled: {outcome}{detail}; {count_of(len(result['changes']), 'change')}."
    return Done(path=_room(form), message=message, kind="good" if result["outcome"] == "complete" else "warn")


async def _add_endpoint(state: AppState, form: Form) -> Done:
    given: dict[str, Any] = {key: form[key] for key in ("name", "url", "style") if form.get(key)}
    given |= {key: _listed(form[key]) for key in ("events", "rooms") if form.get(key)}
    shown = facts_of(await endpoints.add(state, NewEndpoint.model_validate(given)))
    return Done(path=f"/endpoints/{shown['id']}", message=f"Secret of {shown['name']}", secret=shown["secret"])


async def _remove_endpoint(state: AppState, form: Form) -> Done:
    await endpoints.remove(state, form["endpoint"])
    return Done(path="/endpoints", message="The endpoint was removed with its backlog; the log of events stays.")


async def _enable(state: AppState, form: Form) -> Done:
    await endpoints.enable(state, form["endpoint"])
    return Done(path=_endpoint(form), message="Enabled: the backlog is delivered now, in order.")


async def _disable(state: AppState, form: Form) -> Done:
    await endpoints.disable(state, form["endpoint"])
    return Done(path=_endpoint(form), message="Disabled: the backlog is kept until it is enabled.")


async def _send_test(state: AppState, form: Form) -> Done:
    sent = facts_of(await endpoints.send_test(state, form["endpoint"]))
    is_good = sent["outcome"] == "delivered"
    detail = "" if is_good or not sent["detail"] else f": {sent['detail']}"
    message = f"Test {sent['outcome']}, {sent['status'] or 'no response'}{detail}"
    return Done(path=_endpoint(form), message=message, kind="good" if is_good else "bad")


async def _rotate(state: AppState, form: Form) -> Done:
    shown = facts_of(await endpoints.rotate(state, form["endpoint"]))
    return Done(path=_endpoint(form), message=f"New secret of {shown['name']}", secret=shown["secret"])


async def _replay(state: AppState, form: Form) -> Done:
    body = endpoints.Replay(since=form["since"], until=form.get("until") or None, failed=bool(form.get("failed")))
    count = facts_of(await endpoints.replay(state, form["endpoint"], body))["count"]
    return Done(path=_endpoint(form), message=f"{count_of(count, 'event')} will be sent again.")


async def _redeliver(state: AppState, form: Form) -> Done:
    body = deliveries.AtEndpoint(endpoint=form["endpoint"])
    count = facts_of(await deliveries.redeliver(state, form["event"], body))["count"]
    message = "The event is sent again." if count else "That was requested already, and is still to be done."
    return Done(path=_event(form), message=message)


async def _skip(state: AppState, form: Form) -> Done:
    await deliveries.skip(state, form["event"], deliveries.AtEndpoint(endpoint=form["endpoint"]))
    return Done(path=_event(form), message="Given up for this endpoint: its room goes on.")


async def _reconcile(state: AppState, form: Form) -> Done:
    outcome = facts_of(await attendance.reconcile(state, form["session"]))["outcome"]
    is_final = outcome in {"reconciled", "contradicted"}
    message = f"Exact times from the source: {str(outcome).replace('_', ' ')}."
    return Done(path=f"/sessions/{form['session']}", message=message, kind="good" if is_final else "warn")


async def _verify(state: AppState, _form: Form) -> Done:
    await audit.start_verification(state)
    return Done(path="/audit", message="The verification has begun.")


async def _erase(state: AppState, form: Form) -> Done:
    if not form["person"] or form["person"] != form.get("confirm"):
        raise ValueError("the two keys differ: nothing was erased")
    count = facts_of(await people.erase(state, form["person"]))["visits"]
    return Done(path="/audit", message=f"{count_of(count, 'visit')} erased.")


def _room(form: Form) -> str:
    return room_path(form.get("room_id", ""), form.get("source"))


def _endpoint(form: Form) -> str:
    return f"/endpoints/{form.get('endpoint', '')}"


def _event(form: Form) -> str:
    return f"/events/{form.get('event', '')}"


ACTIONS: Final[Mapping[str, Action]] = {
    "rooms/add": Action(do=_add_room, back=lambda _: "/"),
    "rooms/remove": Action(do=_remove_room, back=lambda _: "/"),
    "rooms/poll": Action(do=_poll_room, back=_room),
    "endpoints/add": Action(do=_add_endpoint, back=lambda _: "/endpoints"),
    "endpoints/remove": Action(do=_remove_endpoint, back=_endpoint),
    "endpoints/enable": Action(do=_enable, back=_endpoint),
    "endpoints/disable": Action(do=_disable, back=_endpoint),
    "endpoints/test": Action(do=_send_test, back=_endpoint),
    "endpoints/rotate": Action(do=_rotate, back=_endpoint),
    "endpoints/replay": Action(do=_replay, back=_endpoint),
    "events/redeliver": Action(do=_redeliver, back=_event),
    "events/skip": Action(do=_skip, back=_event),
    "sessions/reconcile": Action(do=_reconcile, back=lambda form: f"/sessions/{form.get('session', '')}"),
    "audit/verify": Action(do=_verify, back=lambda _: "/audit"),
    "people/erase": Action(do=_erase, back=lambda _: "/audit", scope=Scope.ADMIN),
}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _message_of(error: Exception) -> str:
    """Return the error message, for the page with the form."""
    match error:
        case HTTPException():
            return str(error.detail)
        case ValidationError():
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc']))}: {message_of(first)}"
        case KeyError():
            return f"the form has no field {error}"
        case _:
            return str(error)
