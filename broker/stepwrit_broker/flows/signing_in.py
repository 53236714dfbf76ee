"""Persons by their identity provider: who looks at the pages, and an approval signed by signing in anew.

For an approval the `nonce` is the attempt's challenge, so that the ID token is the issuer's signature over
exactly this approval. What a visit needs on its way back lies sealed in the browser: an answer without it, or
with that of another visit, is nobody's.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stepwrit.digest import DigestError, b64u, body_digest, unb64u
from stepwrit.wire import LEEWAY_S
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.errors import Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.registry import Client
from stepwrit_broker.flows import approving
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports import PersonProof, ProofUse
from stepwrit_broker.ports_approval import Given, Leaving, PresentCommand, SignIns

LIFE_S: Final = 600.0
SIGN_IN_MAX_AGE_S: Final = 3600
KEPT_S: Final = 86_400.0
_CONTEXT: Final = "visit to an identity provider"
_RANDOM: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """Off to the identity provider. address: where. state: names the visit. sealed: comes back with the
    browser, and is of use to nobody but us.
    """

    address: str
    state: str
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """A person who came back. auth_time: when they signed in there. goes_to: a path of ours, as it was given.

    record: the approval that they signed by it, None where they only signed in.
    """

    who: Identity
    auth_time: float
    goes_to: str
    record: ApprovalRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """What is sealed. who, approval, attempt: only of a visit that signs; attempt: base64url."""

    leaving: Leaving
    begun_at: float
    goes_to: str
    who: Identity | None = None
    approval: str = ""
    attempt: str = ""


async def begin_sign_in(house: House, idp: SignIns, goes_to: str) -> Going:
    """Raises Unavailable."""
    return await _leave(house, idp, nonce=b64u(house.entropy.bytes(_RANDOM)), goes_to=goes_to)


async def begin_signing(house: House, idp: SignIns, who: Identity, name: str, goes_to: str) -> Going:
    """This person is about to sign this approval. Raises as `approving.begin`, Unavailable."""
    if not idp.acr:
        raise Refused(
            "access_denied",
            "approvals are not signed by signing in here",
            rule="acr",
            who_can_change_it="the operator (broker.toml, sign_in.acr)",
        )
    attempt = await approving.begin(house, who, name)
    return await _leave(
        house,
        idp,
        nonce=b64u(attempt.challenge),
        goes_to=goes_to,
        who=who,
        approval=name,
        attempt=b64u(attempt.nonce),
    )


async def finish(house: House, idp: SignIns, sealed: str | None, answer: Mapping[str, str]) -> Came:
    """Whoever came back, proved; and, where the visit was for that, the approval signed.

    sealed: what came with the browser. answer: the parameters of the redirect. Raises Unproven, Refused,
    Conflict, Unavailable; nothing is used up then.
    """
    visit = _visit(house, sealed, answer.get("state", ""))
    try:
        return await _finish(house, idp, visit, answer)
    except Problem as problem:
        if visit.who is not None:
            await house.refusals.note_person(problem, house.opaque(visit.who), "approve", visit.approval)
        raise


async def _finish(house: House, idp: SignIns, visit: _Visit, answer: Mapping[str, str]) -> Came:
    id_token = await idp.redeem(answer, visit.leaving)
    proof = await _judged(house, idp, visit, id_token)
    who = Identity(proof.issuer, proof.subject)
    if visit.who is not None:
        record = await _sign(house, idp, visit, visit.who, proof, id_token)
        return Came(who=who, auth_time=proof.auth_time, goes_to=visit.goes_to, record=record)
    command = PresentCommand(
        by=who, authenticator=None, sign_count=None, proofs=_once(visit, proof), now=house.clock.now()
    )
    await house.approvals.present(command)
    return Came(who=who, auth_time=proof.auth_time, goes_to=visit.goes_to)


async def _leave(
    house: House,
    idp: SignIns,
    *,
    nonce: str,
    goes_to: str,
    who: Identity | None = None,
    approval: str = "",
    attempt: str = "",
) -> Going:
    _check_own_client(house, idp)
    state, verifier = (b64u(house.entropy.bytes(_RANDOM)) for _ in range(2))
    leaving = _leaving(state, nonce, verifier, step_up=who is not None)
    told = [state, nonce, verifier, house.clock.now(), goes_to, approval, attempt]
    told += [] if who is None else [who.issuer, who.subject]
    sealed = b64u(house.sealer.seal(json.dumps(told).encode(), _CONTEXT))
    return Going(address=await idp.address(leaving), state=state, sealed=sealed)


def _leaving(state: str, nonce: str, verifier: str, *, step_up: bool) -> Leaving:
    age = 0 if step_up else SIGN_IN_MAX_AGE_S
    return Leaving(state=state, nonce=nonce, verifier=verifier, max_age_s=age, step_up=step_up)


def _visit(house: House, sealed: str | None, state: str) -> _Visit:
    """The visit that this browser began and that this answer is to. Raises Unproven(`invalid_proof`)."""
    if sealed is None:
        raise Unproven(
            "invalid_proof", "this sign-in was not begun in this browser; begin again", rule="state"
        )
    try:
        told = json.loads(house.sealer.open(unb64u(sealed), _CONTEXT))
    except (DigestError, Unavailable) as bad:
        raise Unproven("invalid_proof", "this sign-in was not begun here; begin again", rule="state") from bad
    own, nonce, verifier, begun_at, goes_to, approval, attempt, *who = told
    if not hmac.compare_digest(own.encode(), state.encode()):
        raise Unproven("invalid_proof", "this answer is to another sign-in; begin again", rule="state")
    if not 0 <= house.clock.now() - begun_at < LIFE_S:
        raise Unproven("invalid_proof", "this sign-in took too long; begin again", rule="expired")
    return _Visit(
        leaving=_leaving(own, nonce, verifier, step_up=bool(who)),
        begun_at=begun_at,
        goes_to=goes_to,
        who=Identity(*who) if who else None,
        approval=approval,
        attempt=attempt,
    )


async def _judged(house: House, idp: SignIns, visit: _Visit, id_token: str) -> PersonProof:
    """The ID token is this provider's, for us, of this visit, and fresh. Raises Refused, Unproven."""
    now = house.clock.now()
    proof = await house.people.judge(id_token, now)
    if proof.issuer != idp.issuer or proof.clients != (idp.client_id,) or proof.may_act is not None:
        raise Unproven("invalid_proof", "the ID token was made for somebody else", rule="audience")
    if not hmac.compare_digest((proof.nonce or "").encode(), visit.leaving.nonce.encode()):
        raise Unproven("invalid_proof", "the ID token is of another sign-in", rule="nonce")
    earliest = visit.begun_at if visit.leaving.step_up else now - visit.leaving.max_age_s
    if proof.auth_time < earliest - LEEWAY_S:
        raise Unproven(
            "invalid_proof", "the identity provider did not ask you to sign in anew", rule="auth_time"
        )
    if visit.leaving.step_up and proof.acr not in idp.acr:
        raise Unproven(
            "invalid_proof",
            "you did not sign in as strongly as an approval needs",
            rule="acr",
            who_can_change_it="the operator (broker.toml, sign_in.acr) or the identity provider's",
        )
    return proof


async def _sign(
    house: House, idp: SignIns, visit: _Visit, meant: Identity, proof: PersonProof, id_token: str
) -> ApprovalRecord:
    """Record the ID token as this person's signature. It must be whom the page was shown to."""
    who, attempt = Identity(proof.issuer, proof.subject), unb64u(visit.attempt)
    if not house.settings.now_in_force().registry.persons.is_same(who, meant):
        raise Unproven("invalid_proof", "somebody else signed in than the page was shown to", rule="person")
    challenge, use = await approving.challenge_of(house, meant, visit.approval, attempt)
    if not hmac.compare_digest(b64u(challenge).encode(), visit.leaving.nonce.encode()):
        raise Unproven("invalid_proof", "the approval is not what was begun any more", rule="nonce")
    digest = (await approving.view(house, who, visit.approval)).record.asked.digest
    given = Given(
        by=who,
        method="oidc",
        digest=digest,
        authenticator=None,
        proofs=(use, *_once(visit, proof)),
        evidence=_evidence(idp, visit, proof, id_token),
        kept={"id_token": id_token},
    )
    return await approving.sign(house, visit.approval, given)


def _evidence(idp: SignIns, visit: _Visit, proof: PersonProof, id_token: str) -> dict[str, object]:
    """What may stay for ever: nothing of it says who. nonce: the attempt's. claim: the ID token's."""
    return {
        "nonce": visit.attempt,
        "claim": visit.leaving.nonce,
        "issuer": proof.issuer,
        "client_id": idp.client_id,
        "acr": proof.acr,
        "auth_time": int(proof.auth_time),
        "id_token": body_digest(id_token.encode()),
        "key": dict(proof.key),
    }


def _once(visit: _Visit, proof: PersonProof) -> tuple[ProofUse, ...]:
    """The ID token serves once, here or for an intent; so does the visit."""
    return (
        ProofUse(kind="id_token", key=proof.digest, until=proof.until + KEPT_S),
        ProofUse(kind="visit", key=visit.leaving.state, until=visit.begun_at + LIFE_S),
    )


def _check_own_client(house: House, idp: SignIns) -> None:
    """An agent's client is not ours: its ID tokens would be for both. Raises Unavailable."""
    ours = Client(issuer=idp.issuer, client_id=idp.client_id)
    if any(ours in entry.clients for entry in house.settings.now_in_force().registry.entries):
        raise Unavailable(
            "unavailable",
            "the pages' client at the identity provider is also an agent's: each needs its own",
            rule="sign_in.client_id",
            who_can_change_it="the operator (broker.toml, sign_in.client_id)",
        )
