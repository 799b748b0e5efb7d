"""The page of the audit: the head of the logs, the last verification, and erasure."""

from __future__ import annotations

from fastapi.responses import Response

from bridge.attendance.audit import read_heads
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.pages.view import PageView
from bridge.web.routing import api_router

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@router.get("/audit")
async def show(view: PageView) -> Response:
    """Head and verification."""
    verification = view.state.verification
    head = await view.state.database.read(read_heads, view.state.runtime.now())
    return view.page(
        "audit.html",
        "Audit",
        head=head.document,
        result=None if verification.last is None else verification.last.document,
        failure=verification.failure,
        is_verifying=verification.under_way_since is not None,
    )
