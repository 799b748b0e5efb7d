"""`make bench`: run the benchmarks; print a table in Markdown, and write the figures as JSON with `--json FILE`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import chain, delivering, polling, rig, service
from bridge import __version__
from bridge.logs import configure_logs

BENCHMARKS = {"polling": polling, "delivering": delivering, "chain": chain, "service": service}


async def main() -> None:
    """Run what was asked for, all by default."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = rig.arguments(parser)
    configure_logs(console=False, level="error")
    machine = _machine()
    print(
        f"presence-bridge {__version__}, {machine['processor']}, {machine['cpus']} CPUs, Python {machine['python']}\n"
    )
    print("| | database | | unit | to reach | |\n|---|---|---|---|---|---|")
    figures: list[rig.Figure] = []
    for name in options.only or BENCHMARKS:
        async for one in BENCHMARKS[name].measure(options):
            figures.append(one)
            value = f"{one.value:,.0f}" if one.value >= 100 else f"{one.value:.2f}"  # noqa: PLR2004 - three digits
            print(f"| {one.name} | {one.database} | {value} | {one.unit} | {one.goal} | {one.detail} |", flush=True)
    if options.json is not None:
        document = {"machine": machine, "figures": [asdict(figure) for figure in figures]}
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _machine() -> dict[str, object]:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "processor": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


if __name__ == "__main__":
    asyncio.run(main())
