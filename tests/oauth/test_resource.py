"""RFC 9728, 6750 and 9449 at a guarded resource: a client that knows nothing but the URL finds its way."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
from tests.fakes.bearer import tls_client
from tests.fakes.stage import BANK, BODY, ISSUER, URL, Stage, redeemed, spiffe
from tests.oauth.foreign import ProofKey, access_hash
from tests.oauth.standard import revoked, workers_credential

from stepwrit._transport import HttpTransport
from stepwrit.client import Broker, Parts
from stepwrit.guard import StepwritGuard

Send = Callable[..., Awaitable[httpx2.Response]]


@asynccontextmanager
async def bank(stage: Stage) -> AsyncIterator[Send]:
    """The bank's API behind the guard, with the stage's broker behind that."""

    async def api(_: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    identity = await stage.identity("resource/bank/1")
    transport = HttpTransport(stage.url, identity, spiffe("stepwrit/broker"))
    async with Broker(transport, spiffe("resource/bank/1"), Parts(base_url=stage.url)) as broker:
        guard = StepwritGuard(api, audience=BANK, broker=broker)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=guard)) as http:
            yield http.request


def shown(token: str, key: ProofKey, scheme: str = "DPoP", **changes: Any) -> dict[str, str]:
    proof = key.proof("POST", URL, **{"ath": access_hash(token), **changes})
    return {"authorization": f"{scheme} {token}", "dpop": proof}


async def test_from_a_refused_request_to_a_good_one(stage: Stage) -> None:
    async with bank(stage) as send:
        bare = await send("POST", URL, content=BODY)
        assert bare.status_code == 401
        challenge = bare.headers["www-authenticate"]
        assert challenge.startswith("DPoP ")
        assert "error=" not in challenge
        (where,) = re.findall(r'resource_metadata="([^"]+)"', challenge)
        document = (await send("GET", where)).json()
        assert document["resource"] == BANK
        assert document["dpop_bound_access_tokens_required"] is True
        assert document["authorization_servers"] == [ISSUER]
        async with tls_client(stage) as http:
            server = (await http.get("/.well-known/oauth-authorization-server")).json()
        assert server["issuer"] == document["authorization_servers"][0]
        (details_type,) = document["authorization_details_types_supported"]
        assert details_type in server["authorization_details_types_supported"]
        assert document["dpop_signing_alg_values_supported"] == server["dpop_signing_alg_values_supported"]
        opened, key, token = await workers_credential(stage)
        good = await send("POST", URL, content=BODY, headers=shown(token, key))
        assert (good.status_code, good.content) == (201, BODY)
        assert redeemed(stage, opened.txn) == 1


async def test_a_bound_credential_is_no_bearer_and_needs_its_own_keys_proof(stage: Stage) -> None:
    async with bank(stage) as send:
        _, key, token = await workers_credential(stage)
        wrong = {
            "bearer": shown(token, key, "Bearer"),
            "no proof": {"authorization": f"DPoP {token}"},
            "no hash": shown(token, key, ath=None),
            "another token's hash": shown(token, key, ath=access_hash("x")),
            "another key": shown(token, ProofKey()),
            "another method": shown(token, key, htm="GET"),
            "another URL": shown(token, key, htu=f"{BANK}/v1/other"),
        }
        for name, headers in wrong.items():
            reply = await send("POST", URL, content=BODY, headers=headers)
            assert reply.status_code in (401, 403), name
        assert (await send("POST", URL, content=BODY, headers=shown(token, key))).status_code == 201


async def test_what_its_client_revoked_opens_nothing(stage: Stage) -> None:
    async with bank(stage) as send:
        opened, key, token = await workers_credential(stage)
        _, other_key, other = await workers_credential(stage)
        assert (await send("POST", URL, content=BODY, headers=shown(other, other_key))).status_code == 201
        performer = jwt.decode(token, options={"verify_signature": False})["client_id"]
        actor = await stage.actor(performer.partition(f"{stage.domain}/")[2])
        assert (await revoked(actor, token)).status == 200
        reply = await send("POST", URL, content=BODY, headers=shown(token, key))
        assert (reply.status_code, reply.json()["refusal"]["code"]) == (403, "revoked")
        assert redeemed(stage, opened.txn) == 0
