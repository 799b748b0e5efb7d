"""Participants of LiveKit rooms, on command: a line of JSON for each, answered by the sids of those that joined."""

from __future__ import annotations

import asyncio
import json
import sys

from livekit import rtc


async def _run(url: str) -> None:
    rooms: dict[str, rtc.Room] = {}
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        joining = {identity: rtc.Room() for identity in command.get("join", {})}
        await asyncio.gather(*(room.connect(url, command["join"][identity]) for identity, room in joining.items()))
        rooms |= joining
        await asyncio.gather(*(rooms.pop(identity).disconnect() for identity in command.get("leave", ())))
        sids = {identity: room.local_participant.sid for identity, room in joining.items()}
        print(json.dumps(sids), flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1]))
