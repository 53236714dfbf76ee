"""What the OAuth endpoints ask of every request in the same way (RFC 6749 sections 2.3 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Unproven

_ASSERTION: Final = frozenset({"client_assertion", "client_assertion_type"})
_OTHERS: Final = frozenset({"client_secret"})


def check_client(form: Mapping[str, str], caller: Caller) -> None:
    """One way of authentication, and the client that it proved.

    Raises Malformed for a second way, Unproven for another `client_id`.
    """
    second = _OTHERS if caller.workload.attested_by == "jwt" else _OTHERS | _ASSERTION
    if not second.isdisjoint(form):
        raise Malformed(
            "invalid_request", "a client authenticates once; here it has by its certificate or JWT-SVID"
        )
    if form.get("client_id", caller.workload.id) != caller.workload.id:
        raise Unproven("unattested", "client_id is not the SPIFFE ID that was proved")


def token_of(form: Mapping[str, str]) -> str:
    """The `token` that is asked about. `token_type_hint` may say what it likes: nothing depends on it.

    Raises Malformed.
    """
    token = form.get("token")
    if token is None:
        raise Malformed("invalid_request", "token is missing")
    return token
