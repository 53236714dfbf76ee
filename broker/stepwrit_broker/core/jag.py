"""The claims of a grant to another trust domain's broker, to and from JSON. Pure.

draft-ietf-oauth-identity-assertion-authz-grant section 4 (`typ oauth-id-jag+jwt`), as the JWT authorization
grant of draft-ietf-oauth-identity-chaining section 2.4: for one authorization server, one client, one key,
one action, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from stepwrit.digest import b64u
from stepwrit.wire import ACTION_TYPE, CLAIM_STEP, Impact, Origin
from stepwrit.wire_chain import actors
from stepwrit_broker.core.persons import SUBJECT_MAX

TEXT_MAX: Final = 2048
ACTORS_MAX: Final = 64
MEMBERS: Final = frozenset({"type", "server", "tool", "impact", "args"})
IMPACTS: Final = ("low", "medium", "high")
ORIGINS: Final = ("human", "model", "server")
_T = TypeVar("_T")


class BadGrant(ValueError):  # noqa: N818  reads as what it is
    """A claim is missing, or says what a grant cannot say; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantClaims:
    """One action, granted by one broker to another's.

    subject: the issuer's own name of the requester for this audience. client: SPIFFE ID of the one workload
    that may use it, by the key `jkt`. server: the SPIFFE ID (or pattern) under which the audience registered
    the performer; tool: without the server. args: digest. chain: SPIFFE IDs, the current actor first. step,
    txn, ref, origin: of the step at the issuer. person: issuer and subject of the person, where they cross.
    """

    issuer: str
    subject: str
    audience: str
    client: str
    jkt: str
    jti: str
    iat: int
    exp: int
    server: str
    tool: str
    impact: Impact
    args: str
    chain: tuple[str, ...]
    step: str
    txn: str
    ref: str
    origin: Origin
    person: tuple[str, str] | None = None

    def claims(self) -> dict[str, object]:
        """The JWT claims set."""
        person = self.person
        named = {"sub_id": {"format": "iss_sub", "iss": person[0], "sub": person[1]}} if person else {}
        return {
            **named,
            "iss": self.issuer,
            "sub": self.subject,
            "aud": self.audience,
            "client_id": self.client,
            "jti": self.jti,
            "iat": self.iat,
            "exp": self.exp,
            "cnf": {"jkt": self.jkt},
            "act": actors(self.chain),
            "authorization_details": [
                {
                    "type": ACTION_TYPE,
                    "server": self.server,
                    "tool": self.tool,
                    "impact": self.impact,
                    "args": self.args,
                }
            ],
            CLAIM_STEP: {
                "v": 1,
                "id": self.step,
                "txn": self.txn,
                "ref": self.ref,
                "origin": self.origin,
            },
        }

    @staticmethod
    def of(claims: Mapping[str, object]) -> GrantClaims:
        """Read verified claims; every text is bounded. Raises BadGrant."""
        action, step = _action(claims), _obj(claims, CLAIM_STEP)
        return GrantClaims(
            issuer=_text(claims, "iss"),
            subject=_text(claims, "sub"),
            audience=_audience(claims),
            client=_text(claims, "client_id"),
            jkt=_text(_obj(claims, "cnf"), "jkt"),
            jti=_text(claims, "jti"),
            iat=_get(claims, "iat", int),
            exp=_get(claims, "exp", int),
            server=_text(action, "server"),
            tool=_text(action, "tool"),
            impact=cast("Impact", _one_of(action, "impact", IMPACTS)),
            args=_text(action, "args"),
            chain=_unnest(_obj(claims, "act")),
            step=_text(step, "id"),
            txn=_text(step, "txn"),
            ref=_text(step, "ref"),
            origin=cast("Origin", _one_of(step, "origin", ORIGINS)),
            person=_person(claims),
        )


def grant_digest(payload: bytes) -> str:
    """By what both ledgers know a grant: base64url SHA-256 of the JWS payload, the claims as they were sent.

    The signature is no part of it: the same claims may be signed twice.
    """
    return b64u(hashlib.sha256(payload).digest())


def _unnest(actor: Mapping[str, object]) -> tuple[str, ...]:
    chain = [_text(actor, "sub")]
    while "act" in actor:
        actor = _obj(actor, "act")
        chain.append(_text(actor, "sub"))
        if len(chain) > ACTORS_MAX:
            raise BadGrant("act: too many actors")
    return tuple(chain)


def _audience(claims: Mapping[str, object]) -> str:
    """Exactly one (draft section 4.3)."""
    audience = claims.get("aud")
    if isinstance(audience, list) and len(cast("list[object]", audience)) == 1:
        audience = cast("list[object]", audience)[0]
    if not isinstance(audience, str):
        raise BadGrant("aud: not exactly one audience")
    return audience


def _action(claims: Mapping[str, object]) -> Mapping[str, object]:
    details = claims.get("authorization_details")
    listed = cast("list[object]", details) if isinstance(details, list) else []
    if len(listed) != 1 or not isinstance(listed[0], Mapping):
        raise BadGrant("authorization_details: not exactly one object")
    action = cast("Mapping[str, object]", listed[0])
    if action.get("type") != ACTION_TYPE or MEMBERS.symmetric_difference(action):
        raise BadGrant("authorization_details: not one action of a tool")
    return action


def _person(claims: Mapping[str, object]) -> tuple[str, str] | None:
    """RFC 9493 section 3.2.3."""
    if "sub_id" not in claims:
        return None
    found = _obj(claims, "sub_id")
    if found.get("format") != "iss_sub":
        raise BadGrant("sub_id: format is not iss_sub")
    person = _text(found, "iss"), _text(found, "sub")
    if len(person[1]) > SUBJECT_MAX or not "".join(person).isprintable():
        raise BadGrant(f"sub_id: sub is not 1 to {SUBJECT_MAX} printable characters")
    return person


def _get(source: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    value = source.get(name)
    if type(value) is not kind:
        raise BadGrant(f"{name}: missing or not {kind.__name__}")
    return value


def _text(source: Mapping[str, object], name: str) -> str:
    value = _get(source, name, str)
    if not value or len(value) > TEXT_MAX:
        raise BadGrant(f"{name}: empty or too long")
    return value


def _obj(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = source.get(name)
    if not isinstance(value, Mapping):
        raise BadGrant(f"{name}: missing or not an object")
    return cast("Mapping[str, object]", value)


def _one_of(source: Mapping[str, object], name: str, words: tuple[str, ...]) -> str:
    value = _text(source, name)
    if value not in words:
        raise BadGrant(f"{name}: not one of {', '.join(words)}")
    return value
