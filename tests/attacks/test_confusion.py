"""Every token and proof, shown wherever another one belongs."""

from __future__ import annotations

import base64
import json
import time

import pytest
from tests.fakes.stage import (
    URL,
    Held,
    Reply,
    Stage,
    accept_body,
    credential_form,
    new,
    redeem_body,
    redeemed,
    refused,
)

from stepwrit.digest import args_digest
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.jws import SigningKey
from stepwrit.wire import (
    HEADER_DPOP,
    HEADER_OPERATION,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_ID,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    TYP_CREDENTIAL,
    TYP_STEP_TOKEN,
)


async def everything(stage: Stage) -> tuple[Held, dict[str, str]]:
    """One fresh, good specimen of each kind, beside a credential that is still unused."""
    held, root = await stage.held(), await stage.root()
    chat, args = held.opened.by, args_digest(dict(held.opened.args))
    now = time.time()
    return held, {
        "step token": held.opened.token,
        "root token": root["access_token"],
        "credential": held.token,
        "dpop proof": held.ledger.proof("/v1/redeem"),
        "presenter's proof": make_proof(held.ledger.key, "POST", URL, now, new(), ath=token_hash(held.token)),
        "step proof": make_step_proof(
            chat.key, token=held.opened.token, args=args, round=1, now=now, jti=new()
        ),
        "id token": stage.issuer.mint("alice", client_id="chat-app"),
        "garbage": "eyJhbGciOiJFUzI1NiIsImtpZCI6IngiLCJ0eXAiOiJhdCtqd3QifQ.e30.AA",
        "nothing": "x",
    }


KINDS = (
    "step token", "root token", "credential", "dpop proof", "presenter's proof", "step proof", "id token",
    "garbage", "nothing",
)  # fmt: skip


def without(*right: str) -> list[str]:
    return [kind for kind in KINDS if kind not in right]


@pytest.mark.parametrize("kind", without("credential"))
async def test_only_a_credential_redeems(stage: Stage, kind: str) -> None:
    held, made = await everything(stage)
    refused(stage, await held.bank.redeem(made[kind], held.ledger), "invalid_token")
    assert redeemed(stage, held.txn) == 0
    (await held.redeem()).ok()


@pytest.mark.parametrize("kind", without("presenter's proof"))
async def test_only_a_presenters_proof_presents(stage: Stage, kind: str) -> None:
    held, made = await everything(stage)
    body = redeem_body(held.token, held.ledger) | {"proof": made[kind]}
    refused(stage, await held.bank.json("/v1/redeem", body), "invalid_proof")
    assert redeemed(stage, held.txn) == 0
    (await held.redeem()).ok()


@pytest.mark.parametrize("kind", without())
async def test_only_the_right_dpop_proof_goes_with_a_request(stage: Stage, kind: str) -> None:
    """A proof for `/v1/redeem` or for the bank is as wrong as no proof."""
    held, made = await everything(stage)
    chat, root = held.opened.by, await stage.root()
    refused(stage, await chat.open_reply(root["step"], proof=made[kind]), "invalid_proof")
    (await chat.open_reply(root["step"])).ok()


@pytest.mark.parametrize("kind", without("step token"))
async def test_only_a_step_token_is_accepted(stage: Stage, kind: str) -> None:
    _, made = await everything(stage)
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    told = await ledger.accept(opened, token=made[kind])
    refused(stage, told, "invalid_request" if kind == "root token" else "invalid_token")
    (await ledger.accept(opened)).ok()


@pytest.mark.parametrize("kind", without("step proof"))
async def test_only_a_step_proof_speaks_for_the_initiator(stage: Stage, kind: str) -> None:
    _, made = await everything(stage)
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    refused(stage, await ledger.accept(opened, proof=made[kind]), "invalid_proof")
    (await ledger.accept(opened)).ok()


@pytest.mark.parametrize("kind", without("id token"))
async def test_only_an_id_token_starts_an_intent(stage: Stage, kind: str) -> None:
    _, made = await everything(stage)
    chat = await stage.actor("agent/chat")
    refused(stage, await chat.form(chat.intent_form(made[kind])), "human_proof")
    (await chat.form(chat.intent_form(made["id token"]))).ok()


@pytest.mark.parametrize("said", [TOKEN_TYPE_STEP, TOKEN_TYPE_TXN, TOKEN_TYPE_ACCESS, TOKEN_TYPE_ID])
@pytest.mark.parametrize("kind", without("step token"))
async def test_only_a_step_is_the_subject_of_a_credential(stage: Stage, kind: str, said: str) -> None:
    held, made = await everything(stage)
    form = credential_form(made[kind], subject_token_type=said)
    refused(stage, await held.ledger.form(form), "invalid_token", "invalid_request", "no_step", "not_found")
    (await held.redeem()).ok()


async def test_an_intent_yields_no_credential_by_id_or_token(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    refused(stage, await chat.form(credential_form(root["step"])), "no_step")
    form = credential_form(root["access_token"], subject_token_type=TOKEN_TYPE_TXN)
    refused(stage, await chat.form(form), "no_step")
    (await chat.open_reply(root["step"])).ok()


async def test_a_step_token_as_an_access_token_opens_nothing(stage: Stage) -> None:
    held, _ = await everything(stage)
    headers = {"Authorization": f"DPoP {held.opened.token}", HEADER_OPERATION: new()}
    told = await held.ledger.send("POST", "/v1/steps", b"{}", headers)
    refused(stage, told, "invalid_proof")


# --- forgeries in our own dress


def forged(kid: str, typ: str, claims: dict[str, object], key: SigningKey | None = None) -> str:
    signing = SigningKey((key or SigningKey.generate())._private, kid=kid)
    return signing.sign(typ, claims)


def read(token: str) -> tuple[dict[str, object], dict[str, object]]:
    head, claims, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, claims))  # type: ignore[return-value]


async def test_a_credential_signed_by_a_stranger_under_our_key_id_is_refused(stage: Stage) -> None:
    held = await stage.held()
    head, claims = read(held.token)
    refused(
        stage,
        await held.bank.redeem(forged(str(head["kid"]), TYP_CREDENTIAL, claims), held.ledger),
        "invalid_token",
    )
    refused(
        stage,
        await held.bank.redeem(forged("at-unknown", TYP_CREDENTIAL, claims), held.ledger),
        "invalid_token",
    )
    (await held.redeem()).ok()


async def test_a_credential_under_the_step_tokens_key_is_refused(stage: Stage) -> None:
    """Two keys: what signs step tokens cannot sign a credential, whatever its type says."""
    held = await stage.held()
    _, claims = read(held.token)
    step_ring, credential_ring, *_ = stage.broker.housed.rings
    key = step_ring.signing_key(time.time())
    refused(stage, await held.bank.redeem(key.sign(TYP_CREDENTIAL, claims), held.ledger), "invalid_token")
    other = credential_ring.signing_key(time.time())
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    _, step_claims = read(opened.token)
    refused(
        stage, await ledger.accept(opened, token=other.sign(TYP_STEP_TOKEN, step_claims)), "invalid_token"
    )
    (await ledger.accept(opened)).ok()
    (await held.redeem()).ok()


async def test_a_credential_with_changed_claims_is_refused(stage: Stage) -> None:
    held = await stage.held()
    head, claims, signature = held.token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    wider = (
        base64.urlsafe_b64encode(json.dumps(said | {"exp": said["exp"] + 900}).encode()).rstrip(b"=").decode()
    )
    refused(stage, await held.bank.redeem(f"{head}.{wider}.{signature}", held.ledger), "invalid_token")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt","kid":"x"}').rstrip(b"=").decode()
    refused(stage, await held.bank.redeem(f"{none}.{claims}.", held.ledger), "invalid_token")
    (await held.redeem()).ok()


async def test_the_other_signature_of_the_same_credential_is_no_second_use(stage: Stage) -> None:
    """ES256 signatures have a twin (n - s). The token's bytes differ; what counts is the grant."""
    held = await stage.held()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    head, claims, signature = held.token.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    twin = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    other = f"{head}.{claims}.{base64.urlsafe_b64encode(twin).rstrip(b'=').decode()}"
    (await held.redeem()).ok()
    refused(stage, await held.bank.redeem(other, held.ledger), "replay")
    assert redeemed(stage, held.txn) == 1


async def test_two_dpop_headers_are_refused(stage: Stage) -> None:
    import httpx2

    from stepwrit._tls import client_context

    chat, root = await stage.actor("agent/chat"), await stage.root()
    tls = client_context(await stage.identity("agent/chat"), lambda _: True)
    body = json.dumps(
        {"v": 1, "parent": root["step"], "server": "ledger", "tool": "note", "args": {}}
    ).encode()

    async def send(*proofs: str) -> httpx2.Response:
        headers = [(HEADER_OPERATION, new()), *((HEADER_DPOP, proof) for proof in proofs)]
        async with httpx2.AsyncClient(verify=tls, trust_env=False) as http:
            return await http.post(f"{stage.url}/v1/steps", content=body, headers=headers)

    assert (await send(chat.proof("/v1/steps"))).status_code == 201
    two = await send(chat.proof("/v1/steps"), chat.proof("/v1/steps"))
    told = Reply(status=two.status_code, body=two.json(), raw=two.content)
    refused(stage, told, "invalid_request", "invalid_proof")


async def test_a_private_key_in_a_proof_is_refused(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    numbers = chat.key._private.private_numbers()
    secret = base64.urlsafe_b64encode(numbers.private_value.to_bytes(32, "big")).rstrip(b"=").decode()
    head = {"alg": "ES256", "typ": "dpop+jwt", "jwk": {**chat.key.public_jwk, "d": secret}}
    claims = read(chat.proof("/v1/steps"))[1]
    text = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, claims)
    )
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(chat.key._private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    signature = base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).rstrip(b"=").decode()
    refused(stage, await chat.open_reply(root["step"], proof=f"{text}.{signature}"), "invalid_proof")
    (await chat.open_reply(root["step"])).ok()


async def test_an_accept_by_a_token_of_another_step_is_refused(stage: Stage) -> None:
    one, two = await stage.opened(), await stage.opened()
    ledger = await stage.actor("mcp-server/ledger")
    crossed = await ledger.json(f"/v1/steps/{one.step}/accept", accept_body(two))
    refused(stage, crossed, "invalid_request", "invalid_token")
    for opened in (one, two):
        (await ledger.accept(opened)).ok()
