"""A receiver of webhooks on loopback: records every request, verifies it, and responds as a test scripts it.

It knows nothing of the bridge's code: `standardwebhooks` from PyPI checks the signatures.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.harness.loop_thread import LoopThread
from tests.harness.waiting import PATIENCE, wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROOM_EVENTS = ["peer.*", "room.*", "session.*"]
"""Every type that a room's own log can have."""
ACCEPTED = range(200, 300)

Event = dict[str, Any]
BODY_LIMIT = 8 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One request as it arrived, and the `status` of its response; None while it is paused or if it was cut."""

    number: int
    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    event: Event
    """The body, parsed; empty when it is no JSON object."""
    unverified: str | None
    """The error of the reference package; None when it verifies."""
    responded_before: int
    """The number of responses when this request arrived."""
    status: int | None = None
    responded: int | None = None
    """Its position in the order of responses."""

    @property
    def event_id(self) -> str:
        return self.headers.get("webhook-id", "")

    @property
    def accepted(self) -> bool:
        return self.status in ACCEPTED

    @property
    def room(self) -> str | None:
        room: str | None = self.event["data"]["room_id"]
        return room

    def is_signed_with(self, secret: str) -> bool:
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


Hook = Callable[[Delivery], object]


def _always(_: Delivery) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class Response:
    """The response to requests for which `when` is true, `times` of them. The hooks run in the receiver's thread."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    pause: bool = False
    """Wait for `Receiver.release()`."""
    unasked: bytes = b""
    """Sent after the response, when the sender has read that."""
    reset: bool = False
    """No response: the connection is reset."""
    when: Callable[[Delivery], bool] = _always
    times: int | None = None
    before: Hook | None = None
    after: Hook | None = None

    def takes(self, delivery: Delivery) -> bool:
        if self.times == 0 or not self.when(delivery):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Receiver(LoopThread):
    """A receiver in its own thread; use as a context manager."""

    def __init__(self, secret: str = SECRET) -> None:
        super().__init__("receiver")
        self.secret = secret
        self.url = ""
        self._webhook = Webhook(secret)
        self._deliveries: list[Delivery] = []
        self._script: tuple[Response, ...] = ()
        self._responses = 0
        self._released = asyncio.Event()

    def endpoint(self, name: str = "receiver", **settings: object) -> dict[str, object]:
        """Return a table for `[[endpoints]]` that subscribes this receiver, by default to all events of rooms."""
        return {"name": name, "url": f"{self.url}/{name}", "secret": self.secret, "events": ROOM_EVENTS, **settings}

    def script(self, *responses: Response) -> None:
        """Replace the script: a request gets the first response that takes it, by default 200."""
        self._script = responses

    def release(self) -> None:
        """Respond to every request that is paused."""

        def release_all() -> None:
            self._released.set()
            self._released = asyncio.Event()

        self._loop.call_soon_threadsafe(release_all)

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """Every request so far, in order of arrival."""
        return tuple(self._deliveries)

    @property
    def accepted(self) -> Sequence[Delivery]:
        """Those that got a 2xx."""
        return tuple(delivery for delivery in self._deliveries if delivery.accepted)

    def events(self, *types: str, room: str | None = None) -> list[Event]:
        """Accepted events in the order in which they were first seen, each once; of `types` and `room` if given."""
        first_seen = {delivery.event_id: delivery for delivery in reversed(self.accepted)}
        events = [delivery.event for delivery in sorted(first_seen.values(), key=lambda delivery: delivery.number)]
        return [
            event
            for event in events
            if (not types or event["type"] in types) and (room is None or event["data"]["room_id"] == room)
        ]

    def wait_for(
        self, condition: Callable[[list[Event]], bool], what: str, *, room: str | None = None, timeout: float = PATIENCE
    ) -> list[Event]:
        """Wait until `condition` is true of the accepted events (of a room)."""
        wait_until(
            lambda: condition(self.events(room=room)),
            timeout=timeout,
            what=lambda: f"{what}; received so far: {[brief(event) for event in self.events(room=room)][-40:]}",
        )
        return self.events(room=room)

    def wait_for_count(self, count: int, *, room: str | None = None, timeout: float = PATIENCE) -> list[Event]:
        """Wait for that many accepted events (of a room)."""
        return self.wait_for(lambda events: len(events) >= count, f"{count} events", room=room, timeout=timeout)

    async def _serve(self) -> None:
        server = web.Server(self._receive)
        runner = web.ServerRunner(server, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*runner.addresses[0])
        self._ready()
        await self._stopping.wait()
        self._released.set()
        await runner.cleanup()

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.clone(client_max_size=BODY_LIMIT).read()
        delivery = Delivery(
            number=len(self._deliveries) + 1,
            at=time.monotonic(),
            path=request.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            event=_parse(body),
            unverified=self._verify(body, request.headers),
            responded_before=self._responses,
        )
        self._deliveries.append(delivery)
        response = next((scripted for scripted in self._script if scripted.takes(delivery)), Response())
        if response.before is not None:
            response.before(delivery)
        if response.pause:
            await self._released.wait()
        if response.delay:
            await asyncio.sleep(response.delay)
        if response.reset:
            _reset(request)
        return await self._response(request, delivery, response)

    async def _response(self, request: web.BaseRequest, delivery: Delivery, response: Response) -> web.StreamResponse:
        sent = web.Response(status=response.status, headers=response.headers, body=response.body)
        if not response.reset:
            self._responses += 1
            delivery.status, delivery.responded = response.status, self._responses
            try:
                await sent.prepare(request)
                await sent.write_eof()
            except ConnectionError:  # the sender has hung up
                delivery.status = None
            if response.unasked and request.transport is not None:
                self._loop.call_later(0.02, request.transport.write, response.unasked)
        if response.after is not None:
            response.after(delivery)
        return sent

    def _verify(self, body: bytes, headers: Mapping[str, str]) -> str | None:
        try:
            self._webhook.verify(body, {name.lower(): value for name, value in headers.items()})
        except (WebhookVerificationError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def brief(event: Event) -> str:
    """Return an event in a few words, for messages."""
    facts = event["data"]
    return f"{facts.get('room_id')}#{facts.get('sequence')} {event['type']} {facts.get('peer_id', '')}".rstrip()


def _parse(body: bytes) -> Event:
    try:
        event = json.loads(body)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _reset(request: web.BaseRequest) -> None:
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
