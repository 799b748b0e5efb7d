"""`bridge audit`: proof that the event log was not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge.attendance.audit import append_checkpoint, open_checkpoint_file, read_heads, read_receipts, write_checkpoint
from bridge.attendance.verify import count_events, verify_log
from bridge.cli.database import open_database
from bridge.cli.options import ConfigOption, JsonOption
from bridge.cli.output import Column, print_facts, print_json, print_line, print_message, print_table
from bridge.cli.progress import progress_bar
from bridge.cli.settings import load_settings
from bridge.errors import UsageError, VerificationError
from bridge.events.summaries import log_name
from bridge.events.wording import count_of
from bridge.runtime import system_runtime


def verify(
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="Checkpoints, or lines that a receiver kept from bridge-chain."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Verify every chain, visits and sessions against the log, and the log against a file; exit 3 if it was changed."""
    settings = load_settings(config)
    lines = [] if against is None else _read_lines(against)
    for _ in read_receipts(lines, str(against)):
        pass  # every line is checked before the work begins
    with open_database(settings) as database:
        total = database.read_now(count_events)
        with progress_bar("events", total) as advance:
            result = database.read_once(verify_log, read_receipts(lines, str(against)), advance)
    if as_json:
        print_json(result.document)
    for problem in [] if as_json else result.problems:
        position = "" if problem.sequence is None else f" #{problem.sequence}"
        print_line(f"{problem.problem}  {log_name(problem.room_id)}{position}  {problem.detail}")
    if result.problems:
        raise VerificationError(f"{count_of(len(result.problems), 'problem')}: the log is not as it was written")
    counted = f"{count_of(result.events, 'event')} in {count_of(result.rooms, 'log')}"
    print_message(f"ok: {counted} ({result.pruned:,} pruned, {result.erased:,} erased)")


def head(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print the newest hash of every log, and the hash over all of them."""
    with open_database(load_settings(config)) as database:
        found = database.read_now(read_heads, system_runtime().now())
    if as_json:
        print_json(found.document, compact=True)  # a line of a file for `verify --against`
        return
    print_facts({"merkle_root": found.merkle_root.hex(), "events": found.event_count, "logs": len(found.heads)})
    columns = (Column(title="SOURCE"), Column(title="ROOM"), Column(title="SEQ", right=True), Column(title="HASH"))
    rows = [(one.source, log_name(one.room_id), one.sequence, one.hash.hex()) for one in found.heads]
    print_table(columns, rows, empty="no log has an event yet")


def checkpoint(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to which a line of JSON is appended.")],
    config: ConfigOption = None,
) -> None:
    """Append the state of all logs to a file, as one line, and to the bridge's own log as audit.checkpoint."""
    runtime = system_runtime()
    with open_database(load_settings(config)) as database:
        try:
            file = open_checkpoint_file(out)
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}") from None
        with file:
            found = database.write_now(append_checkpoint, runtime.now(), runtime.new_id)
            write_checkpoint(file, found)
    print_message(f"{out}: {count_of(found.event_count, 'event')} in {count_of(len(found.heads), 'log')}")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"--against {path}: {reason}") from None
