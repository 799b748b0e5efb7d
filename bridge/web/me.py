"""`GET /me`: the token of the request."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from bridge.rules.access import Scope
from bridge.web.auth import Caller, requires
from bridge.web.routing import api_router

router = api_router(tags=["token"])


class Me(BaseModel):
    """The token of a request."""

    name: str
    scopes: list[Scope]


@router.get("/me", dependencies=[requires()], response_model=Me)
async def show_me(caller: Caller) -> Response:
    """Name and scopes of the token. `anonymous` where no token is configured."""
    return JSONResponse({"name": caller.name, "scopes": list(caller.scopes)})
