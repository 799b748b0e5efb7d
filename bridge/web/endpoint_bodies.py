"""Endpoints as requests describe them: the keys and the rules of `[[endpoints]]`.

References of the configuration (`env:NAME`, `secret_file`) are refused: they would let a caller read the environment
and the files of the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError, field_validator, model_validator

from bridge.config.models import EndpointTable
from bridge.delivery.connect import check_new_endpoint
from bridge.delivery.endpoints import EndpointSpec
from bridge.errors import ForbiddenAddressError
from bridge.web.problems import invalid
from bridge.web.state import AppState

_REFERENCE: Final = "env:"


class NewEndpoint(EndpointTable):
    """An endpoint; what is left out is as in the configuration. Without a secret, one is generated."""

    @model_validator(mode="before")
    @classmethod
    def _accept_secret_files(cls, table: object) -> object:
        return table

    @field_validator("secret", mode="before")
    @classmethod
    def _is_a_secret(cls, secret: object) -> object:
        if isinstance(secret, str):
            _refuse_reference(secret)
            if not secret.isprintable():
                raise ValueError("must not contain control characters")
        return secret

    @field_validator("headers", mode="before")
    @classmethod
    def _are_values(cls, headers: object) -> object:
        if isinstance(headers, dict):
            for value in headers.values():
                _refuse_reference(value)
            if len({str(name).lower() for name in headers}) < len(headers):
                raise ValueError("has a name twice: upper and lower case are the same")
        return headers


def revised(spec: EndpointSpec, changes: Mapping[str, Any]) -> EndpointSpec:
    """Return an endpoint with some keys changed; its secret is None unless it is among them.

    Raises:
        RequestValidationError: the result is not an endpoint.
    """
    try:
        return NewEndpoint.model_validate({**_table(spec), **changes}).spec()
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(errors) from None


async def check_address(state: AppState, url: str, *location: str) -> None:
    """Check that deliveries to a URL would not be blocked; a name that has no address yet may get one.

    Raises:
        ProblemError: 422: they would be.
    """
    try:
        await check_new_endpoint(url, state.settings().delivery.egress)
    except ForbiddenAddressError as error:
        raise invalid(str(error), *location) from None


def _refuse_reference(value: object) -> None:
    if isinstance(value, str) and value.startswith(_REFERENCE):
        raise ValueError("must be the value itself: env: is only for the configuration")


def _table(spec: EndpointSpec) -> dict[str, Any]:
    values = {name: getattr(spec, name) for name in EndpointTable.model_fields}
    return {**values, "timeout": None if spec.timeout is None else spec.timeout.total_seconds()}
