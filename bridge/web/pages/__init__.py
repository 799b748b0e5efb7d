"""The dashboard: pages made by the server from the queries of the API, usable without JavaScript."""

from __future__ import annotations

from bridge.web.pages import actions, audit, endpoints, live, log, rooms, sessions, signing_in, sources, static

ROUTERS = (
    rooms.router,
    sessions.router,
    endpoints.router,
    log.router,
    sources.router,
    audit.router,
    live.router,
    actions.router,
    signing_in.router,
    static.router,
)
