"""`python -m benchmarks.livekit`: LiveKit's own webhooks beside the bridge's, pokes, 1,000 rooms, a flood of pokes.

Run by hand: it takes about 25 minutes, and the first two need a livekit-server (`make livekit`). Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.livekit import flood, many_rooms, poked, rig, side_by_side
from bridge import __version__

PARTS: dict[str, tuple[rig.Measure, float]] = {
    "side_by_side": (side_by_side.measure, 60),
    "poked": (poked.measure, 120),
    "many_rooms": (many_rooms.measure, 120),
    "flood": (flood.measure, 20),
}


def main() -> None:
    """Run the parts that were asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.livekit", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--seconds", type=float, help="length of each measurement")
    options = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    at = datetime.now(UTC).isoformat(timespec="minutes")
    print(f"presence-bridge {__version__}, {_processor()}, {os.cpu_count()} CPUs, {load}, {at}")
    for name in options.only or PARTS:
        measure, seconds = PARTS[name]
        print(f"\n### {name}\n", flush=True)
        for line in measure(options.seconds or seconds):
            print(line, flush=True)


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
