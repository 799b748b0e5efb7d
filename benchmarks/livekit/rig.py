"""Shared by the benchmarks of LiveKit and pokes: bridges in processes of their own, their upstream, and percentiles.

Server, participants, bridge and receivers share one machine, and so one clock.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

from tests.harness.livekit import LiveKitServer
from tests.harness.postgres import free_port
from tests.harness.process import READY, Process, bridge_command
from tests.harness.receiver import ROOM_EVENTS, SECRET, Delivery, Receiver
from tests.harness.waiting import wait_until

MONOTONIC_TO_WALL = time.time() - time.monotonic()
_SAMPLE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$")


@dataclass(frozen=True, slots=True)
class Bridge:
    """A running bridge with its web server and an endpoint for every event of rooms."""

    process: Process
    url: str
    database_url: str

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        lines = httpx.get(f"{self.url}/metrics", trust_env=False).raise_for_status().text.splitlines()
        samples = [found for line in lines if (found := _SAMPLE.match(line))]
        return sum(float(one[3]) for one in samples if one[1] == name)

    def resident_mib(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def running_bridge(
    receiver: Receiver,
    *,
    sources: Mapping[str, Mapping[str, object]],
    rooms: Mapping[str, Iterable[str]],
    interval: str,
    intervals: Mapping[str, str] | None = None,
    delivery: Mapping[str, object] | None = None,
    port: int | None = None,
) -> Iterator[Bridge]:
    """Run the bridge on SQLite, with defaults in all that is not an argument.

    Args:
        receiver: of every event of rooms.
        sources: tables of `[sources]`.
        rooms: ids by source.
        interval: of polls.
        intervals: of rooms that have their own, by id.
        delivery: keys of `[delivery]`.
        port: of the web server; by default a free one.
    """
    port = free_port() if port is None else port
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        url = f"sqlite:///{directory}/bridge.db"
        config = directory / "bridge.toml"
        lines = [
            f'database = {{ url = "{url}" }}',
            f'polling = {{ interval = "{interval}" }}',
            f'web = {{ listen = "127.0.0.1:{port}" }}',
            'log = { format = "json" }',
            "[delivery]",
            *_pairs({"allow_private_networks": ["127.0.0.0/8"], **(delivery or {})}),
            "[[endpoints]]",
            *_pairs({"name": "receiver", "url": f"{receiver.url}/ours", "secret": SECRET, "events": ROOM_EVENTS}),
        ]
        for source, settings in sources.items():
            lines += [f"[sources.{source}]", *_pairs(settings)]
        for source, room_id in ((source, room_id) for source, ids in rooms.items() for room_id in ids):
            own = {"interval": intervals[room_id]} if intervals and room_id in intervals else {}
            lines += ["[[rooms]]", *_pairs({"id": room_id, "source": source, **own})]
        config.write_text("\n".join(lines) + "\n")
        with Process(bridge_command("run", "--config", str(config)), directory) as process:
            process.wait_for_output(READY)
            yield Bridge(process=process, url=f"http://127.0.0.1:{port}", database_url=url)
            process.stop()


@contextmanager
def running_at_livekit(
    receivers: Sequence[tuple[Receiver, Mapping[str, object]]],
    *,
    rooms: Iterable[str],
    interval: str,
    poked: bool = True,
    webhooks: Iterable[str] = (),
) -> Iterator[tuple[LiveKitServer, list[Bridge]]]:
    """Run a real livekit-server, and a bridge for each receiver that polls these rooms of it.

    Args:
        receivers: each with keys of `[delivery]` of its bridge.
        rooms: tracked by every bridge.
        interval: of polls.
        poked: whether the server pokes the bridges.
        webhooks: further URLs for the server's own webhooks.
    """
    ports = [free_port() for _ in receivers]
    pokes = [f"http://127.0.0.1:{port}/pokes/meet" for port in ports] if poked else []
    tracked = {"meet": list(rooms)}
    with (
        tempfile.TemporaryDirectory() as directory,
        LiveKitServer(Path(directory), *webhooks, *pokes) as server,
        ExitStack() as stack,
    ):
        sources = {"meet": server.source()}
        bridges = [
            stack.enter_context(
                running_bridge(
                    receiver, sources=sources, rooms=tracked, interval=interval, delivery=delivery, port=port
                )
            )
            for (receiver, delivery), port in zip(receivers, ports, strict=True)
        ]
        yield server, bridges


def arrival_times(receiver: Receiver, joins: AbstractSet[str], *, timeout: float) -> dict[str, float]:
    """Wait for the `peer.joined` of these peers; returns when each was accepted, in Unix seconds."""

    def arrived() -> dict[str, float]:
        accepted = [one for one in receiver.accepted if one.event["type"] == "peer.joined"]
        return {one.event["data"]["peer_id"]: wall_time(one) for one in accepted}

    wait_until(lambda: joins <= arrived().keys(), timeout=timeout, what="every join")
    return arrived()


def _pairs(settings: Mapping[str, object]) -> list[str]:
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]


def wall_time(delivery: Delivery) -> float:
    """When a request arrived, in Unix seconds."""
    return delivery.at + MONOTONIC_TO_WALL


def unix_seconds(text: str) -> float:
    """The time of an event's text."""
    return datetime.fromisoformat(text).timestamp()


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def spread(values: Sequence[float]) -> str:
    """P50, p99 and the largest of some seconds."""
    return " / ".join(duration(quantile(values, share)) for share in (0.5, 0.99, 1)) if values else "-"


def duration(seconds: float) -> str:
    """Seconds, to three digits."""
    if abs(seconds) < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"  # noqa: PLR2004 - three digits


def wait_for_quiet(receiver: Receiver, seconds: float, *, timeout: float = 600) -> None:
    """Wait until a receiver has got nothing for some time."""

    def is_quiet() -> bool:
        return not receiver.deliveries or time.monotonic() - receiver.deliveries[-1].at > seconds

    wait_until(is_quiet, timeout=timeout, what="the end of requests")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A table in Markdown."""
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |"


Measure = Callable[[float], Iterator[str]]
"""A benchmark: the length of its measurement in seconds, to lines of Markdown."""
