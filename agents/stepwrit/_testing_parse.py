"""How the in-memory broker reads requests, strictly, and writes answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import parse_qsl

from stepwrit import shape
from stepwrit._testing_books import No
from stepwrit.digest import DigestError, parse_json
from stepwrit.flow import Request, Response
from stepwrit.wire import ACCEPTED_VERSIONS, RequestDetails

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")


def header(request: Request, name: str) -> str | None:
    """A header's value, whatever the case of its name."""
    values = [value for key, value in request.headers.items() if key.lower() == name.lower()]
    return values[0] if values else None


def read_members(body: bytes) -> dict[str, object]:
    """The JSON object of a body of a version that is understood. Raises No."""
    try:
        value = parse_json(body)
    except DigestError as bad:
        raise No("invalid_request", str(bad)) from None
    if not isinstance(value, dict):
        raise No("invalid_request", "not a JSON object")
    if value.get("v", 1) not in ACCEPTED_VERSIONS:
        raise No("upgrade_required", "this version is not understood")
    return cast("dict[str, object]", value)


def read_shape(cls: type[T], members: Mapping[str, object]) -> T:
    """One of the wire's shapes, with no member too many. Raises No."""
    try:
        return shape.read(cls, members)
    except shape.ShapeError as bad:
        raise No("invalid_request", str(bad)) from None


def only_v(members: Mapping[str, object], step: str) -> str:
    """The step, when the body says nothing else. Raises No."""
    if members.keys() - {"v"}:
        raise No("invalid_request", f"unknown member: {min(members.keys() - {'v'})}")
    return step


def read_form(body: bytes) -> dict[str, str]:
    """A form whose parameters are there once each. Raises No."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise No("invalid_request", "not a form") from None
    if len(dict(pairs)) != len(pairs):
        raise No("invalid_request", "a parameter is there twice")
    return dict(pairs)


def read_details(text: str) -> RequestDetails:
    """The one request of `authorization_details` (RFC 9396). Raises No."""
    try:
        value = parse_json(text)
        if not isinstance(value, list) or len(value) != 1:
            raise No("invalid_authorization_details", "exactly one object is expected")
        return shape.read(RequestDetails, value[0])
    except (DigestError, shape.ShapeError) as bad:
        raise No("invalid_authorization_details", str(bad)) from None


def json_response(status: int, value: object) -> Response:
    """A JSON answer."""
    body = json.dumps(shape.write(value)).encode()
    return Response(status=status, headers={"content-type": "application/json"}, body=body)
