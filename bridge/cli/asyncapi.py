"""`bridge asyncapi`: the description of webhooks and stream."""

from __future__ import annotations

from bridge.cli.output import print_json
from bridge.web.asyncapi import describe_events


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of webhooks and stream."""
    print_json(describe_events())
