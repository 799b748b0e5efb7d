"""The simulated upstream as the tests use it: `bridge simulate` in a process, and a client for its control API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from tests.harness.process import Process, bridge_command
from tests.harness.waiting import PATIENCE, wait_until

LISTENING = "simulating Huddle01 on "
API_PATH = "/api/v2/sdk"

Json = Any
Step = Mapping[str, Json]


class SimulatorClient:
    """Moves the simulated runtime and looks at the truth in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def join(self, room: str, peer_id: str, **how: Json) -> None:
        self._send("POST", f"/rooms/{quote(room, safe='')}/join", {"peer_id": peer_id, **how})

    def leave(self, room: str, peer_id: str) -> None:
        self._send("POST", f"/rooms/{quote(room, safe='')}/leave", {"peer_id": peer_id})

    def set_metadata(self, room: str, peer_id: str, metadata: Json) -> None:
        self._send("POST", f"/rooms/{quote(room, safe='')}/metadata", {"peer_id": peer_id, "metadata": metadata})

    def end(self, room: str) -> None:
        """Everybody leaves and the session is over at once."""
        self._send("POST", f"/rooms/{quote(room, safe='')}/end")

    def swap(self, room: str, *, leave: str, join: str) -> None:
        """One peer for another, between two answers."""
        self._send("POST", f"/rooms/{quote(room, safe='')}/swap", {"leave": leave, "join": {"peer_id": join}})

    def script(self, *steps: Step) -> None:
        """Several steps between two answers."""
        self._send("POST", "/script", {"steps": list(steps)})

    def create_room(self, room: str, api_key: str) -> None:
        self._send("POST", "/rooms", {"room_id": room, "api_key": api_key})

    def faults(self, *faults: Mapping[str, Json], room: str | None = None) -> None:
        """Replace the faults (of a room)."""
        self._send("PUT", "/faults", {"faults": list(faults), **({} if room is None else {"room": room})})

    def settings(self, **settings: Json) -> None:
        self._send("PUT", "/settings", settings)

    def room(self, room: str) -> dict[str, Json]:
        """The truth about a room, its history included."""
        found: dict[str, Json] = self._send("GET", f"/rooms/{quote(room, safe='')}")
        return found

    def members(self, room: str) -> set[str]:
        """Who is in a room."""
        return {peer["peerId"] for peer in self.room(room)["peers"]}

    def ever_joined(self, room: str) -> set[str]:
        """Who has ever been in a room."""
        return {entry["peerId"] for entry in self.room(room)["history"] if entry["what"] == "join"}

    def polls(self, room: str | None = None, *, since: int = 0) -> Sequence[dict[str, Json]]:
        """The requests for participants so far (of a room), those numbered after `since`."""
        requests: list[dict[str, Json]] = self._send("GET", f"/requests?since={since}")
        return [
            request
            for request in requests
            if "/live-sessions/participants/" in request["path"] and room in (None, request["room_id"])
        ]

    def last_request(self) -> int:
        """The assign_sequences of the newest request."""
        requests: list[dict[str, Json]] = self._send("GET", "/requests?since=0")
        return max((request["n"] for request in requests), default=0)

    def wait_for_polls(self, count: int, *rooms: str, since: int | None = None, timeout: float = PATIENCE) -> None:
        """Wait until each of the rooms has been asked for `count` times more, from now on unless told since when."""
        start = self.last_request() if since is None else since

        def lacking() -> list[str]:
            polls = Counter(request["room_id"] for request in self.polls(since=start))
            return [room for room in rooms if polls[room] < count]

        wait_until(lambda: not lacking(), timeout=timeout, what=lambda: f"{count} polls of {lacking()}")

    def _send(self, method: str, path: str, body: Json = None) -> Json:
        response = self._http.request(method, f"/_control{path}", json=body)
        if not response.is_success:
            raise AssertionError(
                f"the simulator says {response.status_code} to {method} {path} {body}: {response.text}"
            )
        return response.json() if response.content else None


class SimulatorProcess(Process):
    """`bridge simulate` on a free port; `client` drives it."""

    def __init__(self, directory: Path, *, api_keys: Sequence[str] = ()) -> None:
        keys = [argument for key in api_keys for argument in ("--api-key", key)]
        super().__init__(bridge_command("simulate", "--port", "0", *keys), directory)
        self.client: SimulatorClient

    def __enter__(self) -> Self:
        try:
            line = self.wait_for_output(LISTENING)
        except BaseException:
            self.kill()
            raise
        self.client = SimulatorClient(line.partition(LISTENING)[2].strip().removesuffix(API_PATH))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.client.close()
        super().__exit__(kind, error, at)
