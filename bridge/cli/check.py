"""`bridge check`: the configuration, without the database."""

from __future__ import annotations

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_message
from bridge.cli.settings import load_settings, name_of
from bridge.events.wording import count_of


def check(config: ConfigOption = None) -> None:
    """Validate the configuration; touches nothing else."""
    settings = load_settings(config)
    checked = name_of(config) if settings.has_file else "the environment alone"
    counts = (
        count_of(len(settings.source_tables), "source"),
        count_of(len(settings.room_tables), "room"),
        count_of(len(settings.endpoint_tables), "endpoint"),
    )
    print_message(f"{checked}: ok ({', '.join(counts)})")
    if not settings.room_tables and not any(table.discover for table in settings.source_tables.values()):
        print_message(
            "note: no room is listed; only rooms added with `bridge rooms add` are polled, or those that a source with "
            "discover = true finds live"
        )
    if not settings.endpoint_tables:
        print_message("note: no endpoint is listed; events go only to endpoints added with `bridge endpoints add`")
