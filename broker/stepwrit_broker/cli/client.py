"""The admin API, as commands call it: over the admin socket, or over mutual TLS with an operator's SVID."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx2

from stepwrit import _reply
from stepwrit.clock import SystemEntropy, random_id
from stepwrit.errors import ConfigurationError, RefusedError, UnavailableError
from stepwrit.wire import HEADER_OPERATION, Refusal
from stepwrit_broker.cli.failures import NoBroker
from stepwrit_broker.cli.locate import Place, locate

TIMEOUT_S: Final = 30.0
IDENTITY_S: Final = 10.0
BASE: Final = "/v1/admin"


class AdminClient:
    """Asks one broker. Answers are JSON as the API says; a no is RefusedError, nobody there is NoBroker."""

    def __init__(self, http: httpx2.Client, place: Place) -> None:
        self._http = http
        self.place: Final = place

    def get(self, path: str, **query: str | int) -> Any:
        """The answer to a question."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Change something, under an operation id of its own."""
        given = {name: value for name, value in body.items() if value is not None}
        operation = {HEADER_OPERATION: random_id(SystemEntropy())}
        return self._ask("POST", path, json=given, headers=operation)

    def _ask(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            reply = self._http.request(method, BASE + path, **kwargs)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as lost:
            raise NoBroker(_nobody(self.place, lost)) from None
        except httpx2.RequestError as lost:
            raise NoBroker(
                f"{self.place.where} gave no answer ({type(lost).__name__}); what it did is not known: "
                "look with `stepwrit tail`, or say it again"
            ) from None
        if reply.status_code >= 400:
            raise _no(reply)
        return reply.json()


@contextmanager
def asking(given: str | None) -> Generator[AdminClient]:
    """A client of the broker that `locate` finds. Raises NoBroker and ConfigurationError."""
    place = locate(given)
    with _over_mtls(place) if place.is_url else _over_socket(place) as http:
        yield AdminClient(http, place)


@contextmanager
def _over_socket(place: Place) -> Generator[httpx2.Client]:
    try:
        with socket.socket(socket.AF_UNIX) as probe:  # the plain error says more than the HTTP library's
            probe.connect(place.where)
    except PermissionError:
        raise NoBroker(
            f"uid {os.getuid()} may not open {place.where}; run as root or as the broker's user, "
            "or give --mtls URL with an operator's SVID"
        ) from None
    except OSError as missing:
        raise NoBroker(_nobody(place, missing)) from None
    with httpx2.Client(
        transport=httpx2.HTTPTransport(uds=place.where), base_url="http://admin", timeout=TIMEOUT_S
    ) as http:
        yield http


@contextmanager
def _over_mtls(place: Place) -> Generator[httpx2.Client]:
    from stepwrit._tls import client_context  # noqa: PLC0415  gRPC is slow to import, and rarely needed here
    from stepwrit._transport import broker_judge  # noqa: PLC0415
    from stepwrit.identity import WorkloadIdentity  # noqa: PLC0415

    api = os.environ.get("SPIFFE_ENDPOINT_SOCKET")
    if not api:
        raise ConfigurationError("SPIFFE_ENDPOINT_SOCKET is not set; an operator proves itself with its SVID")
    identity = WorkloadIdentity(api, hint=os.environ.get("STEPWRIT_SPIFFE_HINT") or None)
    identity.start_sync()
    try:
        identity.wait_ready_sync(IDENTITY_S)
        judge = broker_judge(identity, os.environ.get("STEPWRIT_BROKER_ID"))
        with httpx2.Client(
            base_url=place.where, verify=client_context(identity, judge), timeout=TIMEOUT_S, trust_env=False
        ) as http:
            yield http
    finally:
        identity.close_sync()


def _nobody(place: Place, lost: Exception) -> str:
    why = f" ({lost})" if place.is_url else ""
    return f"no broker answers on {place.where}{why}; is it running? try `stepwrit broker --dev`"


def _no(reply: httpx2.Response) -> RefusedError:
    try:
        refusal = _reply.refusal(reply.content)
    except _reply.Garbled:
        refusal = Refusal(
            code="unavailable" if reply.status_code >= 500 else "invalid_request",
            reason=f"HTTP {reply.status_code} without a refusal; is this a broker of this version?",
        )
    return UnavailableError(refusal) if reply.status_code >= 500 else RefusedError(refusal)
