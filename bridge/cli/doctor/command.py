"""`bridge doctor`: checks the database and everything that the configuration names; changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import typer

from bridge.admin.listing import document
from bridge.cli.doctor.database import check_database
from bridge.cli.doctor.endpoints import check_endpoints
from bridge.cli.doctor.findings import Check, Finding, State
from bridge.cli.doctor.upstream import check_upstream
from bridge.cli.options import ConfigOption, JsonOption
from bridge.cli.output import Column, print_json, print_message, print_table
from bridge.cli.settings import load_settings
from bridge.config import Settings
from bridge.runtime import system_runtime


def doctor(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check database, stored secrets, API keys, clocks, rooms, and endpoints' DNS and TLS. Changes nothing."""
    findings = asyncio.run(_examine(load_settings(config)))
    if as_json:
        print_json([document(finding) for finding in findings])
    else:
        _print_table(findings)
        counted = Counter(finding.state for finding in findings)
        print_message(", ".join(f"{counted[state]} {state}" for state in State))
    if any(finding.state is State.FAIL for finding in findings):
        raise typer.Exit(1)


async def _examine(settings: Settings) -> list[Finding]:
    """Check the database, then everything that it and the configuration name, at the same time."""
    runtime = system_runtime()
    database = await check_database(settings)
    upstream, endpoints = await asyncio.gather(
        check_upstream(settings, database.records, runtime),
        check_endpoints(settings, database.records, runtime.now()),
    )
    order = list(Check)
    return sorted([*database.findings, *upstream, *endpoints], key=lambda finding: order.index(finding.check))


def _print_table(findings: Sequence[Finding]) -> None:
    """Print a row for each finding; advice is in a row of its own, so that the table stays narrow."""
    rows: list[Sequence[object]] = []
    for finding in findings:
        rows.append((finding.state, finding.check.replace("_", " "), finding.subject, finding.detail))
        if finding.advice is not None:
            rows.append(("", "", "", f"→ {finding.advice}"))
    print_table([Column(title=title) for title in ("STATE", "CHECK", "SUBJECT", "FOUND")], rows, empty="")
