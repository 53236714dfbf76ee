"""Judge a Security Event Token (RFC 8417) of a registered OIDC issuer, by the profile of Shared Signals."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import jwt

from stepwrit.wire import LEEWAY_S
from stepwrit_broker.attest.person import OidcPeople
from stepwrit_broker.core.errors import Refused, Unavailable, Unproven
from stepwrit_broker.ports_signal import Signal

TYP: Final = "secevent+jwt"
MAX_TOKEN_BYTES: Final = 16_384
MAX_AGE_S: Final = 86_400.0  # a transmitter may have been unable to reach us for so long
CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"
VERIFICATION: Final = "https://schemas.openid.net/secevent/ssf/event-type/verification"
KNOWN: Final = {
    f"{CAEP}session-revoked": "session-revoked",
    f"{CAEP}credential-change": "credential-change",
    f"{RISC}account-disabled": "account-disabled",
    f"{RISC}account-purged": "account-purged",
    f"{RISC}account-enabled": "account-enabled",
    VERIFICATION: "verification",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmitter:
    """Who may push. authorization_file: holds the header's value; None where none is demanded."""

    issuer: str
    audience: str
    events: frozenset[str]
    authorization_file: Path | None = None


class OidcSignals:
    """The Signals port, by the keys of OIDC issuers."""

    def __init__(self, transmitters: Iterable[Transmitter], people: OidcPeople) -> None:
        self._transmitters = {each.issuer: each for each in transmitters}
        self._people = people

    async def judge(self, unverified: str, authorization: str | None, now: float) -> Signal:
        """See the port."""
        head, said = _unverified(unverified)
        source = self._transmitters.get(str(said.get("iss")))
        if source is None:
            raise _no("invalid_issuer", "no transmitter of this name is registered")
        if not _is_authorized(source, authorization):
            raise _no("authentication_failed", "the Authorization header is not this transmitter's")
        try:
            key = await self._people.key(
                source.issuer, str(head.get("kid", "")), str(head.get("alg", "")), now
            )
            claims = jwt.decode(
                unverified,
                key,
                algorithms=[key.algorithm_name],
                options={  # the signature only: what the claims say is judged below
                    "verify_aud": False,
                    "verify_iss": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (Refused, jwt.PyJWTError) as bad:
            raise _no("invalid_key", "it is not signed by a key of its issuer") from bad
        return _judged(source, claims, now)


def _unverified(unverified: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if len(unverified) > MAX_TOKEN_BYTES or not unverified.isascii():
        raise _no("invalid_request", "not a SET")
    try:
        head = jwt.get_unverified_header(unverified)
        claims = jwt.decode(unverified, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError) as bad:
        raise _no("invalid_request", "not a SET") from bad
    if str(head.get("typ", "")).lower() != TYP:
        raise _no("invalid_request", f"typ is not {TYP}")
    return head, claims


def _is_authorized(source: Transmitter, authorization: str | None) -> bool:
    """Read at each push, so that a changed file counts at once."""
    if source.authorization_file is None:
        return True
    try:
        wanted = source.authorization_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as gone:
        raise Unavailable(
            "unavailable", "the transmitter's authorization cannot be read", rule="signals"
        ) from gone
    return bool(wanted) and hmac.compare_digest((authorization or "").encode(), wanted.encode())


def _judged(source: Transmitter, claims: Mapping[str, Any], now: float) -> Signal:
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if source.audience not in named:
        raise _no("invalid_audience", "it was made for another receiver")
    if "sub" in claims or "exp" in claims:
        raise _no("invalid_request", "sub and exp do not belong into an event: the subject is sub_id")
    issued, jti = claims.get("iat"), claims.get("jti")
    if isinstance(issued, bool) or not isinstance(issued, int | float):
        raise _no("invalid_request", "iat is not a time")
    if not now - MAX_AGE_S <= issued <= now + LEEWAY_S:
        raise _no("invalid_request", "it was issued more than a day ago, or in the future")
    if not isinstance(jti, str) or not 1 <= len(jti) <= 256:
        raise _no("invalid_request", "jti is missing")
    return _signal(source, claims, jti, float(issued))


def _signal(source: Transmitter, claims: Mapping[str, Any], jti: str, at: float) -> Signal:
    events = claims.get("events")
    if not isinstance(events, dict) or len(cast("dict[str, Any]", events)) != 1:
        raise _no("invalid_request", "events holds not exactly one event")
    (uri,) = cast("dict[str, Any]", events)
    event = KNOWN.get(uri, "other")
    subject = None if event in ("verification", "other") else _subject(source, claims.get("sub_id"))
    acts = event in source.events or (event == "account-enabled" and "account-disabled" in source.events)
    return Signal(issuer=source.issuer, jti=jti, event=event, subject=subject, acts=acts, at=at)


def _subject(source: Transmitter, found: object) -> str:
    """RFC 9493 section 3.2.3, alone or as the user of a complex subject; never an email."""
    named = cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
    user = named.get("user") if "user" in named and named.get("format", "complex") == "complex" else named
    person = cast("Mapping[str, Any]", user) if isinstance(user, dict) else {}
    subject = person.get("sub")
    if person.get("format") != "iss_sub" or not isinstance(subject, str) or not subject:
        raise _no("invalid_request", "sub_id is not of format iss_sub")
    if person.get("iss") != source.issuer:
        raise _no("access_denied", "a transmitter speaks of its own subjects alone")
    return subject


def _no(code: str, reason: str) -> Unproven:
    return Unproven("invalid_token", reason, rule=code)
