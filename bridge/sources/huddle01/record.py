"""Huddle01's own record of past sessions: `rooms/session-details` and `rooms/participant-list` (docs of its API). Pure.

Items that cannot be used are left out: what the record lacks is found by comparing it with what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from http import HTTPStatus

from bridge.rules.presence import ABSENT, Failure, Json
from bridge.rules.reconcile import RecordedSession, RecordedVisit
from bridge.sources.failures import bad_response
from bridge.sources.huddle01.responses import interpret
from bridge.sources.untrusted_json import decode_json
from bridge.sources.values import PEER_ID_LIMIT, read_join_time, read_metadata


def read_sessions(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> tuple[RecordedSession, ...] | Failure:
    """One page of a room's sessions, without their visits; none if the room is not known."""
    items = _items("sessions", status, headers, body, now)
    return items if isinstance(items, Failure) else tuple(_sessions(items))


def read_visits(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> tuple[RecordedVisit, ...] | Failure:
    """The visits of one session; none if the session is not known."""
    items = _items("participants", status, headers, body, now)
    return items if isinstance(items, Failure) else tuple(_visits(items))


def _items(
    name: str, status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> list[dict[str, Json]] | Failure:
    try:
        document = decode_json(body)
    except ValueError:
        document = None
    listed = document.get(name) if isinstance(document, dict) else None
    if status == HTTPStatus.OK and isinstance(listed, list):
        return [item for item in listed if isinstance(item, dict)]
    found = interpret(status, headers, body, now)
    if isinstance(found, Failure):
        return found
    return [] if found.no_session else bad_response(status, body, f"no list of {name}")


def _sessions(items: list[dict[str, Json]]) -> Iterator[RecordedSession]:
    for item in items:
        session_id = item.get("sessionId", item.get("sesssionId"))
        started_at = read_join_time(item.get("startTime"))
        if isinstance(session_id, str) and session_id and started_at is not None:
            ended_at = read_join_time(item.get("endTime"))
            yield RecordedSession(session_id=session_id, started_at=started_at, ended_at=ended_at)


def _visits(items: list[dict[str, Json]]) -> Iterator[RecordedVisit]:
    for item in items:
        peer_id, joined_at = item.get("peerId"), read_join_time(item.get("joinTime"))
        if not isinstance(peer_id, str) or not 0 < len(peer_id) <= PEER_ID_LIMIT or joined_at is None:
            continue
        left_at = read_join_time(item.get("exitTime"))
        yield RecordedVisit(
            peer_id=peer_id,
            joined_at=joined_at,
            left_at=left_at if left_at is not None and left_at >= joined_at else None,
            metadata=read_metadata(item["metadata"]) if "metadata" in item else ABSENT,
        )
