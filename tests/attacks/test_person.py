"""Whoever holds an ID token is not yet the person who wants this."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.fakes.stage import Stage, refused

from stepwrit.wire import TOKEN_TYPE_ACCESS, CeilingSpec, IntentRequest
from stepwrit_broker.flows.intent import bound_nonce


def claims(stage: Stage, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {
        "iss": stage.issuer.url, "sub": "alice", "aud": "chat-app", "iat": now, "exp": now + 300,
        "auth_time": now, "jti": f"{now}-{time.monotonic_ns()}",
    }  # fmt: skip
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(
    stage: Stage, said: dict[str, Any], *, alg: str = "ES256", key: Any = None, kid: str = "dev"
) -> str:
    return jwt.encode(said, stage.issuer._key if key is None else key, alg, headers={"kid": kid})


async def test_an_id_token_made_by_hand_passes_when_it_is_right(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    got = (await chat.form(chat.intent_form(signed(stage, claims(stage))))).ok()
    assert (got["origin"], got["proof"]) == ("human", "presented")


async def test_an_id_token_starts_one_intent(stage: Stage) -> None:
    chat, token = await stage.actor("agent/chat"), signed(stage, claims(stage))
    (await chat.form(chat.intent_form(token))).ok()
    refused(stage, await chat.form(chat.intent_form(token)), "replay", "human_proof")
    refused(stage, await chat.with_new_key().form(chat.intent_form(token)), "replay", "human_proof")


async def test_an_id_token_starts_one_intent_of_thirty_two_at_once(stage: Stage) -> None:
    import asyncio

    chat, token = await stage.actor("agent/chat"), signed(stage, claims(stage))
    replies = await asyncio.gather(*(chat.form(chat.intent_form(token)) for _ in range(32)))
    assert sum(reply.status == 200 for reply in replies) == 1


async def test_the_same_id_token_with_another_signature_is_the_same_token(stage: Stage) -> None:
    chat, said = await stage.actor("agent/chat"), claims(stage)
    (await chat.form(chat.intent_form(signed(stage, said)))).ok()
    refused(stage, await chat.form(chat.intent_form(signed(stage, said))), "replay", "human_proof")


def _hs256_with_the_public_key(stage: Stage) -> str:
    import base64
    import hashlib
    import hmac

    public = stage.issuer._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [
        json.dumps(each).encode() for each in ({"alg": "HS256", "typ": "JWT", "kid": "dev"}, claims(stage))
    ]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = hmac.new(public, text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


BAD: dict[str, Any] = {
    "of another agent's client": lambda s: signed(s, claims(s, aud="other-app")),
    "of nobody's client": lambda s: signed(s, claims(s, aud="webmail")),
    "of two clients without azp": lambda s: signed(s, claims(s, aud=["chat-app", "webmail"])),
    "for another party": lambda s: signed(s, claims(s, aud=["chat-app", "webmail"], azp="webmail")),
    "whose azp is no audience": lambda s: signed(s, claims(s, aud="webmail", azp="chat-app")),
    "of another issuer": lambda s: signed(s, claims(s, iss="https://evil.example")),
    "by another key": lambda s: signed(s, claims(s), key=ec.generate_private_key(ec.SECP256R1())),
    "by an unknown key id": lambda s: signed(s, claims(s), kid="other"),
    "that expired": lambda s: signed(s, claims(s, exp=int(time.time()) - 60)),
    "of the future": lambda s: signed(s, claims(s, iat=int(time.time()) + 600)),
    "of a session of yesterday": lambda s: signed(s, claims(s, auth_time=int(time.time()) - 86_400)),
    "of a session of tomorrow": lambda s: signed(s, claims(s, auth_time=int(time.time()) + 86_400)),
    "without auth_time": lambda s: signed(s, claims(s, auth_time=None)),
    "with auth_time as text": lambda s: signed(s, claims(s, auth_time=str(int(time.time())))),
    "without a subject": lambda s: signed(s, claims(s, sub=None)),
    "of a subject with a NUL, which no table of a fleet takes": lambda s: signed(s, claims(s, sub="al\0ice")),
    "of a subject that is longer than any": lambda s: signed(s, claims(s, sub="a" * 256)),
    "without expiry": lambda s: signed(s, claims(s, exp=None)),
    "with alg none": lambda s: jwt.encode(claims(s), None, "none", headers={"kid": "dev"}),
    "with HS256 by the public key": _hs256_with_the_public_key,
    "that is garbage": lambda s: "eyJhbGciOiJub25lIn0.e30.",
    "that is a lone surrogate's bytes": lambda s: "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "that is huge": lambda s: signed(s, claims(s, pad="x" * 20_000)),
}


@pytest.mark.parametrize("which", BAD)
async def test_no_intent_by_an_id_token(stage: Stage, which: str) -> None:
    chat = await stage.actor("agent/chat")
    before = stage.broker.ledger.head()["size"]
    refused(stage, await chat.form(chat.intent_form(BAD[which](stage))), "human_proof")
    told = stage.broker.ledger.tail(int(str(before)) - 1, 100, ["intent.opened"], None)
    assert not told
    (await chat.form(chat.intent_form(signed(stage, claims(stage))))).ok()


async def test_a_refused_id_token_is_not_used_up(stage: Stage) -> None:
    chat, other = await stage.actor("agent/chat"), await stage.actor("agent/other")
    token = signed(stage, claims(stage))
    refused(stage, await other.form(other.intent_form(token)), "human_proof")
    refused(stage, await chat.form(chat.intent_form(token, exp=int(time.time()) - 5)), "invalid_request")
    (await chat.form(chat.intent_form(token))).ok()


# --- bound, or only presented


def terms(**changes: Any) -> dict[str, Any]:
    ceiling = CeilingSpec(tools=("ledger/transfer",), impact="medium")
    return {"purpose": "pay invoice 42", "ceiling": ceiling, "exp": int(time.time()) + 500, **changes}


async def test_a_nonce_over_agent_ceiling_purpose_and_end_makes_the_proof_bound(stage: Stage) -> None:
    chat, asked = await stage.actor("agent/chat"), terms()
    nonce = bound_nonce(chat.id, IntentRequest(**asked))
    got = (await chat.form(chat.intent_form(signed(stage, claims(stage, nonce=nonce)), **asked))).ok()
    assert (got["origin"], got["proof"]) == ("human", "bound")


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "pay everything"},
        {"ceiling": CeilingSpec(tools=("ledger/*",), impact="medium")},
        {"ceiling": CeilingSpec(tools=("ledger/transfer",), impact="high")},
        {"exp": int(time.time()) + 3000},
    ],
    ids=["purpose", "tools", "impact", "end"],
)
async def test_what_the_person_did_not_sign_is_only_presented(stage: Stage, change: dict[str, Any]) -> None:
    chat, asked = await stage.actor("agent/chat"), terms()
    nonce = bound_nonce(chat.id, IntentRequest(**asked))
    token = signed(stage, claims(stage, nonce=nonce))
    got = (await chat.form(chat.intent_form(token, **(asked | change)))).ok()
    assert got["proof"] == "presented"


async def test_a_nonce_made_for_another_agent_does_not_bind_here(stage: Stage) -> None:
    chat, asked = await stage.actor("agent/chat"), terms()
    nonce = bound_nonce((await stage.actor("agent/other")).id, IntentRequest(**asked))
    got = (await chat.form(chat.intent_form(signed(stage, claims(stage, nonce=nonce)), **asked))).ok()
    assert got["proof"] == "presented"


# --- who else would start a transaction


async def test_a_server_cannot_start_an_intent_with_a_persons_token(stage: Stage) -> None:
    ledger, token = await stage.actor("mcp-server/ledger"), signed(stage, claims(stage))
    refused(stage, await ledger.form(ledger.intent_form(token)), "origin_claimed")
    refused(stage, await ledger.form(ledger.intent_form(None)), "origin_claimed")
    chat = await stage.actor("agent/chat")
    (await chat.form(chat.intent_form(token))).ok()


async def test_a_trigger_has_no_person_and_no_higher_origin(stage: Stage) -> None:
    nightly = await stage.actor("trigger/nightly")
    got = (await nightly.form(nightly.intent_form(None))).ok()
    assert (got["origin"], got.get("proof")) == ("server", None)
    assert got["ceiling"] == {"tools": ["ledger/*"], "impact": "medium"}
    refused(stage, await nightly.form(nightly.intent_form(signed(stage, claims(stage)))), "human_proof")


async def test_an_agent_cannot_start_an_intent_in_its_own_name(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    refused(stage, await chat.form(chat.intent_form(None)), "human_proof")
    nightly = await stage.actor("trigger/nightly")
    forged = nightly.intent_form(None) | {"subject_token": json.dumps({"sub": chat.id})}
    refused(stage, await nightly.form(forged), "invalid_request")


async def test_an_id_token_is_no_subject_of_a_credential(stage: Stage) -> None:
    held = await stage.held()
    from tests.fakes.stage import credential_form

    token = signed(stage, claims(stage))
    form = credential_form(token, requested_token_type=TOKEN_TYPE_ACCESS)
    refused(stage, await held.ledger.form(form), "invalid_token")
    (await held.redeem()).ok()
