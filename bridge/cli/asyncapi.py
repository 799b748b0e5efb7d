"""`bridge asyncapi`: the description of webhooks and stream."""

from __future__ import annotations

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_json
from bridge.cli.settings import exists, find_file, load_settings
from bridge.web.asyncapi import describe_events


def asyncapi(config: ConfigOption = None) -> None:
    """Print the AsyncAPI 3 document of webhooks and stream, with `web.public_url` if there is a configuration."""
    file = find_file(config)
    is_configured = config is not None or file is None or exists(file)
    print_json(describe_events(load_settings(config).web.public_url if is_configured else ""))
