"""The claims of our two tokens, to and from JSON; standard library only, no cryptography.

Step token: draft-ietf-oauth-transaction-tokens (`typ txntoken+jwt`). It names one step, is bound to its
performer (by SPIFFE ID) and its initiator (by `cnf`), and opens nothing.
Credential: RFC 9068 (`typ at+jwt`) with RFC 9396 details, RFC 8693 `act` and RFC 7800 `cnf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from stepwrit.wire import ACTION_TYPE, CLAIM_STEP, Impact, Origin, Proof
from stepwrit.wire_chain import actors

_T = TypeVar("_T")


class ClaimError(ValueError):
    """A claim is missing or of the wrong type; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepToken:
    """One step, told to its performer.

    args: digest of the tool's arguments, None for an intent's root. performer: SPIFFE ID or pattern. parent:
    the step above, None for a root, and where a broker of an earlier release does not say it.
    subject: the broker's opaque id of the requester, or a trigger's SPIFFE ID. exp: seconds since the epoch.
    """

    issuer: str
    trust_domain: str
    txn: str
    step: str
    subject: str
    scope: str
    initiator: str
    initiator_jkt: str
    performer: str
    origin: Origin
    tool: str | None
    args: str | None
    purpose: str
    intent_origin: Origin
    proof: Proof | None
    iat: int
    exp: int
    jti: str
    parent: str | None = None

    def claims(self) -> dict[str, object]:
        """The JWT claims set."""
        above = {} if self.parent is None else {"parent": self.parent}
        return {
            "iss": self.issuer,
            "aud": self.trust_domain,
            "iat": self.iat,
            "exp": self.exp,
            "jti": self.jti,
            "txn": self.txn,
            "sub": self.subject,
            "scope": self.scope,
            "req_wl": self.initiator,
            "cnf": {"jkt": self.initiator_jkt},
            "tctx": {"purpose": self.purpose, "origin": self.intent_origin, "proof": self.proof},
            CLAIM_STEP: {
                "v": 1,
                "id": self.step,
                "performer": self.performer,
                "origin": self.origin,
                "tool": self.tool,
                "args": self.args,
                **above,
            },
        }

    @staticmethod
    def of(claims: Mapping[str, object]) -> StepToken:
        """Read verified claims. Raises ClaimError."""
        step, tctx = _obj(claims, CLAIM_STEP), _obj(claims, "tctx")
        return StepToken(
            issuer=_get(claims, "iss", str),
            trust_domain=_get(claims, "aud", str),
            txn=_get(claims, "txn", str),
            step=_get(step, "id", str),
            subject=_get(claims, "sub", str),
            scope=_get(claims, "scope", str),
            initiator=_get(claims, "req_wl", str),
            initiator_jkt=_get(_obj(claims, "cnf"), "jkt", str),
            performer=_get(step, "performer", str),
            origin=_origin(step),
            tool=_maybe(step, "tool"),
            args=_maybe(step, "args"),
            purpose=_get(tctx, "purpose", str),
            intent_origin=_origin(tctx),
            proof=cast("Proof | None", _maybe(tctx, "proof")),
            iat=_get(claims, "iat", int),
            exp=_get(claims, "exp", int),
            jti=_get(claims, "jti", str),
            parent=_maybe(step, "parent"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialClaims:
    """One request of one step, for one audience, once.

    chain: performers from the current one back to the first workload. jti is the grant's id.
    request: digest of the one request (`stepwrit.digest.request_digest`). person: issuer and subject, for an
    audience that the registry lets see them.
    """

    issuer: str
    audience: str
    subject: str
    performer: str
    chain: tuple[str, ...]
    jkt: str
    txn: str
    step: str
    grant: str
    origin: Origin
    server: str
    tool: str
    impact: Impact
    args: str
    method: str
    url: str
    request: str
    iat: int
    exp: int
    person: tuple[str, str] | None = None

    def claims(self) -> dict[str, object]:
        """The JWT claims set."""
        person = {} if self.person is None else {"sub_id": _sub_id(*self.person)}
        return {
            **person,
            "iss": self.issuer,
            "aud": self.audience,
            "sub": self.subject,
            "client_id": self.performer,
            "iat": self.iat,
            "exp": self.exp,
            "jti": self.grant,
            "txn": self.txn,
            "cnf": {"jkt": self.jkt},
            "act": actors(self.chain),
            "authorization_details": [
                {
                    "type": ACTION_TYPE,
                    "server": self.server,
                    "tool": self.tool,
                    "impact": self.impact,
                    "args": self.args,
                    "method": self.method,
                    "url": self.url,
                    "request": self.request,
                }
            ],
            CLAIM_STEP: {"v": 1, "id": self.step, "origin": self.origin},
        }

    @staticmethod
    def of(claims: Mapping[str, object]) -> CredentialClaims:
        """Read verified claims. Raises ClaimError."""
        step, action = _obj(claims, CLAIM_STEP), _details(claims)
        return CredentialClaims(
            issuer=_get(claims, "iss", str),
            audience=_get(claims, "aud", str),
            subject=_get(claims, "sub", str),
            performer=_get(claims, "client_id", str),
            chain=_unnest(_obj(claims, "act")),
            jkt=_get(_obj(claims, "cnf"), "jkt", str),
            txn=_get(claims, "txn", str),
            step=_get(step, "id", str),
            grant=_get(claims, "jti", str),
            origin=_origin(step),
            server=_get(action, "server", str),
            tool=_get(action, "tool", str),
            impact=cast("Impact", _get(action, "impact", str)),
            args=_get(action, "args", str),
            method=_get(action, "method", str),
            url=_get(action, "url", str),
            request=_get(action, "request", str),
            iat=_get(claims, "iat", int),
            exp=_get(claims, "exp", int),
            person=_person(claims),
        )


def _sub_id(issuer: str, subject: str) -> dict[str, str]:
    """RFC 9493 section 3.2.3."""
    return {"format": "iss_sub", "iss": issuer, "sub": subject}


def _person(claims: Mapping[str, object]) -> tuple[str, str] | None:
    if "sub_id" not in claims:
        return None
    found = _obj(claims, "sub_id")
    if found.get("format") != "iss_sub":
        raise ClaimError("sub_id: format is not iss_sub")
    return _get(found, "iss", str), _get(found, "sub", str)


def _unnest(actor: Mapping[str, object]) -> tuple[str, ...]:
    chain = [_get(actor, "sub", str)]
    while "act" in actor:
        actor = _obj(actor, "act")
        chain.append(_get(actor, "sub", str))
    return tuple(chain)


def _details(claims: Mapping[str, object]) -> Mapping[str, object]:
    details = _get(claims, "authorization_details", list)
    if len(details) != 1 or not isinstance(details[0], Mapping):
        raise ClaimError("authorization_details: expected exactly one object")
    action = cast("Mapping[str, object]", details[0])
    if action.get("type") != ACTION_TYPE:
        raise ClaimError("authorization_details: unknown type")
    return action


def _get(source: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    value = source.get(name)
    if type(value) is not kind:
        raise ClaimError(f"{name}: missing or not {kind.__name__}")
    return value


def _obj(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = source.get(name)
    if not isinstance(value, Mapping):
        raise ClaimError(f"{name}: missing or not an object")
    return cast("Mapping[str, object]", value)


def _maybe(source: Mapping[str, object], name: str) -> str | None:
    return None if source.get(name) is None else _get(source, name, str)


def _origin(source: Mapping[str, object]) -> Origin:
    match _get(source, "origin", str):
        case "human":
            return "human"
        case "model":
            return "model"
        case "server":
            return "server"
        case _:
            raise ClaimError("origin: not human, model or server")
