"""`bridge openapi`: the description of the HTTP API."""

from __future__ import annotations

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_json, print_message
from bridge.cli.settings import load_settings
from bridge.errors import ConfigurationError
from bridge.web.app import ROUTERS
from bridge.web.openapi import describe_api


def openapi(config: ConfigOption = None) -> None:
    """Print the OpenAPI 3.1 document of the HTTP API. Its server is web.public_url, if that is configured."""
    try:
        public_url = load_settings(config).web.public_url
    except ConfigurationError:
        if config is not None:
            raise
        public_url = ""
        print_message("note: without a valid configuration, the document names no server")
    print_json(describe_api([route for router in ROUTERS for route in router.routes], public_url))
