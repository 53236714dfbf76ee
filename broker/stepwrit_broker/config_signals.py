"""[[signals]]: identity providers that tell this broker when a session or an account ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from stepwrit_broker.config_reader import Means

NO_FILE: Final = Path()
SignalName = Literal["session-revoked", "credential-change", "account-disabled", "account-purged"]
ALL: Final[tuple[SignalName, ...]] = (
    "session-revoked",
    "credential-change",
    "account-disabled",
    "account-purged",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSource:
    """A transmitter of security events (OpenID Shared Signals, CAEP and RISC) that pushes to `ISSUER/signals`
    on the `tls` listener (RFC 8935).
    """

    issuer: Annotated[
        str,
        Means(text="One of the `[[oidc]]`, whose keys sign its events.", example="https://idp.example"),
    ]
    audience: Annotated[
        str, Means(text="What the events are made for (`aud`). Empty: the broker's `issuer`.")
    ] = ""
    authorization_file: Annotated[
        Path,
        Means(
            text="A file with the whole value of the `Authorization` header that the transmitter sends. "
            "Empty: its signature alone says who it is."
        ),
    ] = NO_FILE
    events: Annotated[tuple[SignalName, ...], Means(text="The events that stop a person here.")] = ALL


def signal_problems(table: Iterable[SignalSource], issuers: Iterable[str]) -> Iterator[str]:
    """Every problem of meaning."""
    known, seen = set(issuers), set[str]()
    for at, each in enumerate(table):
        if each.issuer not in known:
            yield f"signals[{at}].issuer: must be one of the [[oidc]] issuers, whose keys are known"
        if each.issuer in seen:
            yield f"signals[{at}].issuer: is named twice"
        seen.add(each.issuer)
