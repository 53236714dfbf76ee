"""RFC 8414: what is listed is served, and what is served is listed."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import KeySet
from tests.fakes.bearer import Bearer, tls_client
from tests.fakes.stage import BANK, DOMAIN, ISSUER, Stage, credential_form, new
from tests.oauth.standard import FORM, WORKER, bearers_step, introspected

from stepwrit.wire import TOKEN_TYPE_ACCESS, TOKEN_TYPE_TXN
from stepwrit.wire_chain import GRANT_JWT_BEARER, TOKEN_TYPE_ID_JAG
from stepwrit_broker.edge.metadata import ENDPOINTS, authorization_server_metadata

WELL_KNOWN = "/.well-known/oauth-authorization-server"


async def metadata(stage: Stage) -> dict[str, Any]:
    async with tls_client(stage) as http:
        answer = await http.get(WELL_KNOWN)
    assert answer.status_code == 200
    return dict(answer.json())


def served_at(url: str, stage: Stage) -> tuple[str, str]:
    """Which listener a URL of the metadata means, and the path there."""
    for name, base in (("tls", ISSUER), ("mtls", stage.url)):
        if url.startswith(f"{base}/"):
            return name, url.removeprefix(base)
    raise AssertionError(url)


def endpoints(document: dict[str, Any]) -> dict[str, str]:
    found = {name: value for name, value in document.items() if name.endswith("_endpoint")}
    return found | {f"mtls {name}": url for name, url in document["mtls_endpoint_aliases"].items()}


async def test_the_document_is_the_same_on_both_listeners_and_names_the_issuer(stage: Stage) -> None:
    found = await metadata(stage)
    assert found["issuer"] == ISSUER, "byte for byte"
    bank = await stage.actor("resource/bank/1")
    assert (await bank.send("GET", WELL_KNOWN, b"", {})).ok() == found
    assert found["stepwrit_trust_domain"] == DOMAIN


async def test_each_listed_endpoint_answers_as_an_oauth_endpoint(stage: Stage) -> None:
    found, bank = await metadata(stage), await stage.actor("resource/bank/1")
    listed = endpoints(found)
    assert len(listed) == 2 * len(ENDPOINTS)
    for name, url in listed.items():
        listener, path = served_at(url, stage)
        assert (listener == "mtls") == name.startswith("mtls "), name
        if listener == "mtls":
            reply = await bank.send("POST", path, b"a=b", {"Content-Type": FORM})
            status, body = reply.status, reply.body
        else:
            async with tls_client(stage) as http:
                answer = await http.post(path, content=b"a=b", headers={"content-type": FORM})
            status, body = answer.status_code, answer.json()
        assert status in (400, 401), (name, status)
        assert body["error"] in ("invalid_dpop_proof", "invalid_request", "invalid_client"), (name, body)


async def test_everything_served_under_oauth_is_listed(stage: Stage) -> None:
    found, broker = await metadata(stage), stage.broker
    listed = {served_at(url, stage)[1] for url in endpoints(found).values()}
    listed.add(served_at(found["jwks_uri"], stage)[1])
    served = set(broker.listening.oauth(broker.listening._callers(None, lambda: ())))  # type: ignore[arg-type]
    async with tls_client(stage) as http:
        described = (await http.get("/v1/openapi.json")).json()["paths"]
    served |= {path for path in described if path.startswith("/oauth/")}
    assert served == listed


async def test_the_published_keys_verify_what_is_issued(stage: Stage) -> None:
    found, held = await metadata(stage), await stage.held()
    async with tls_client(stage) as http:
        keys = (await http.get(served_at(found["jwks_uri"], stage)[1])).json()
    assert KeySet.import_key_set(keys).keys, "another library reads them"
    by_kid = {key["kid"]: key for key in keys["keys"]}
    kid = jwt.get_unverified_header(held.token)["kid"]
    assert kid.startswith("at-")
    claims = jwt.decode(held.token, jwt.PyJWK(by_kid[kid]), ["ES256"], audience=BANK, issuer=ISSUER)
    assert claims["jti"] == held.grant
    assert not any("d" in key for key in keys["keys"])


async def test_the_listed_ways_of_authentication_work_and_no_other(stage: Stage) -> None:
    found, held = await metadata(stage), await stage.held()
    for name in ENDPOINTS:
        assert found[f"{name}_endpoint_auth_methods_supported"] == ["spiffe_jwt", "spiffe_x509"]
        assert "ES256" in found[f"{name}_endpoint_auth_signing_alg_values_supported"]
        assert not any(
            each.startswith("HS") for each in found[f"{name}_endpoint_auth_signing_alg_values_supported"]
        )
    assert (await introspected(held.bank, held.token))["active"] is True
    worker = Bearer(stage=stage, path=WORKER)
    assert (await worker.form({"token": held.token}, path="/oauth/introspect")).ok() == {"active": False}
    async with tls_client(stage) as http:
        for how in ({"auth": ("client", "secret")}, {}):
            answer = await http.post(
                "/oauth/introspect", data={"token": held.token, "client_id": held.bank.id}, **how
            )
            assert answer.status_code in (400, 401), how
            assert answer.json()["error"] in ("invalid_request", "invalid_client"), how


async def test_the_listed_grant_types_details_scopes_and_algorithms_are_those_taken(stage: Stage) -> None:
    found = await metadata(stage)
    (grant_type, bearer), (details_type,) = (
        found["grant_types_supported"],
        found["authorization_details_types_supported"],
    )
    assert bearer == GRANT_JWT_BEARER
    opened, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    form = credential_form(opened.step)
    assert form["grant_type"] == grant_type
    assert json.loads(form["authorization_details"])[0]["type"] == details_type
    got = (await ledger.form(form)).ok()
    assert found["stepwrit_token_types"] == [
        TOKEN_TYPE_TXN,
        got["issued_token_type"],
        TOKEN_TYPE_ID_JAG,
    ]
    assert got["issued_token_type"] == TOKEN_TYPE_ACCESS
    assert (await stage.root())["scope"] in found["scopes_supported"]
    assert found["dpop_signing_alg_values_supported"] == ["ES256"]
    other = ec.generate_private_key(ec.SECP384R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(other.public_key()))
    claims = {"htm": "POST", "htu": f"{stage.url}/oauth/token", "iat": int(stage.now()), "jti": new()}
    proof = jwt.encode(claims, other, "ES384", headers={"typ": "dpop+jwt", "jwk": jwk})
    refused = await ledger.form(form, proof=proof)
    assert (refused.status, refused.body["error"]) == (400, "invalid_dpop_proof")
    assert found["response_types_supported"] == []


def test_without_an_open_listener_there_is_only_the_one_for_certificates() -> None:
    found = authorization_server_metadata(
        issuer=ISSUER, mtls_base="https://mtls.example", trust_domain=DOMAIN, is_open=False
    )
    assert found["token_endpoint"] == "https://mtls.example/oauth/token"
    assert found["jwks_uri"] == "https://mtls.example/oauth/jwks"
    assert found["introspection_endpoint_auth_methods_supported"] == ["spiffe_x509"]
    assert not any(name.endswith("signing_alg_values_supported") and "auth" in name for name in found)


@pytest.mark.parametrize(
    "path", ["/.well-known/oauth-authorization-server/x", "/.well-known/openid-configuration"]
)
async def test_no_other_document_is_served(stage: Stage, path: str) -> None:
    assert await metadata(stage)
    async with tls_client(stage) as http:
        assert (await http.get(path)).status_code == 404


async def test_a_step_token_is_good_for_nothing_at_the_resource_door(stage: Stage) -> None:
    """RFC 8693: a token that is no access token says so, and introspection knows none."""
    worker = Bearer(stage=stage, path=WORKER)
    opened = await bearers_step(stage, worker)
    root = await stage.root()
    assert root["token_type"] == "N_A"
    assert root["issued_token_type"] == TOKEN_TYPE_TXN
    assert (await worker.form({"token": opened.token}, path="/oauth/introspect")).ok() == {"active": False}
