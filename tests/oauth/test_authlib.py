"""Authlib, which has never heard of us, gets, introspects and revokes a credential; and verifies one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from authlib.common.urls import add_params_to_qs
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator
from joserfc import jws
from joserfc.jwk import KeySet
from tests.fakes.stage import BANK, BODY, ENTRIES, URL, Stage
from tests.oauth.foreign import JWT_SPIFFE, ProofKey, SvidFiles, exchange_form, write_svid
from tests.oauth.standard import BEARER_ENTRIES, WORKER, free_port, is_active_at, workers_step

from stepwrit.digest import body_digest

DETAILS = {"type": "stepwrit_action", "method": "POST", "url": URL, "body": body_digest(BODY)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reachable() -> AsyncGenerator[Stage]:
    """A broker whose issuer is where its `tls` listener really is."""
    async with Stage(entries=[*ENTRIES, *BEARER_ENTRIES], issuer=f"https://localhost:{free_port()}") as stage:
        yield stage


async def svid_files(stage: Stage, path: str, folder: Path) -> SvidFiles:
    issued = stage.trust.ca.x509_svid(f"spiffe://{stage.domain}/{path}")
    return write_svid(folder, issued.certificate, issued.key, stage.trust.ca.authorities)


class ByCertificate:
    """Certificate and `client_id` (RFC 8705 section 2); Authlib's `none` method sends the latter."""

    def __init__(self, client_id: str, files: SvidFiles) -> None:
        self.client_id, self.files, self.key = client_id, files, ProofKey()

    @contextmanager
    def session(self) -> Iterator[OAuth2Session]:
        with OAuth2Session(self.client_id, token_endpoint_auth_method="none") as session:
            session.trust_env = False
            session.cert, session.verify = (str(self.files.cert), str(self.files.key)), str(self.files.bundle)
            yield session

    def get(self, metadata: Mapping[str, Any], form: Mapping[str, str]) -> dict[str, Any]:
        url = metadata["mtls_endpoint_aliases"]["token_endpoint"]
        with self.session() as session:
            return dict(session.fetch_token(url, headers=self._headers(url), **form))

    def introspect(self, metadata: Mapping[str, Any], token: str) -> dict[str, Any]:
        url = metadata["mtls_endpoint_aliases"]["introspection_endpoint"]
        with self.session() as session:
            answer = session.introspect_token(url, token=token, token_type_hint="access_token")
            return dict(answer.json())

    def revoke(self, metadata: Mapping[str, Any], token: str) -> int:
        url = metadata["mtls_endpoint_aliases"]["revocation_endpoint"]
        with self.session() as session:
            return int(session.revoke_token(url, token=token, token_type_hint="access_token").status_code)

    def _headers(self, url: str) -> dict[str, str]:
        return {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "DPoP": self.key.proof("POST", url),
        }


class ByAssertion:
    """A JWT-SVID, a key and the server's nonce, as an authentication method of Authlib."""

    def __init__(self, stage: Stage, path: str) -> None:
        self.stage, self.id, self.key = stage, f"spiffe://{stage.domain}/{path}", ProofKey()
        self.nonce: str | None = None

    @contextmanager
    def session(self) -> Iterator[OAuth2Session]:
        with OAuth2Session(
            self.id, token_endpoint_auth_method=self.sign, revocation_endpoint_auth_method=self.sign
        ) as session:
            session.trust_env, session.verify = False, str(self.stage.folder / "tls.crt")
            session.register_compliance_hook("access_token_response", self.remember)
            yield session

    def sign(self, _: Any, method: str, uri: str, headers: Any, body: str) -> tuple[str, Any, str]:
        svid = self.stage.trust.ca.jwt_svid(self.id, [self.stage.issuer_url])
        body = add_params_to_qs(body, [("client_assertion_type", JWT_SPIFFE), ("client_assertion", svid)])
        headers["DPoP"] = self.key.proof(method, uri, nonce=self.nonce)
        headers["Content-Length"] = str(len(body))
        return uri, headers, body

    def remember(self, answer: Any) -> Any:
        self.nonce = answer.headers["DPoP-Nonce"]
        return answer


def discovered(stage: Stage) -> dict[str, Any]:
    """RFC 8414 section 3, as a client does it: the well-known path at the issuer, and the issuer inside."""
    with OAuth2Session() as session:
        session.trust_env, session.verify = False, str(stage.folder / "tls.crt")
        url = f"{stage.issuer_url}/.well-known/oauth-authorization-server"
        metadata: dict[str, Any] = session.get(url, withhold_token=True).json()
    assert metadata["issuer"] == stage.issuer_url
    return metadata


async def test_by_certificate(reachable: Stage, tmp_path: Path) -> None:
    stage = reachable
    worker_id = f"spiffe://{stage.domain}/{WORKER}"
    client = ByCertificate(worker_id, await svid_files(stage, WORKER, tmp_path))
    metadata, step = await asyncio.to_thread(discovered, stage), await workers_step(stage)
    assert "spiffe_x509" in metadata["token_endpoint_auth_methods_supported"]
    token = await asyncio.to_thread(client.get, metadata, exchange_form(step.step, BANK, DETAILS))
    assert token["token_type"] == "DPoP"
    assert token["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert token["authorization_details"][0]["url"] == URL
    said = await asyncio.to_thread(client.introspect, metadata, token["access_token"])
    assert (said["active"], said["client_id"], said["aud"]) == (True, worker_id, BANK)
    assert said["authorization_details"] == token["authorization_details"]
    assert await asyncio.to_thread(client.revoke, metadata, token["access_token"]) == 200
    assert await asyncio.to_thread(client.introspect, metadata, token["access_token"]) == {"active": False}
    assert not await is_active_at(stage, token["access_token"])


async def test_without_an_idempotency_key_two_requests_are_two_credentials(
    reachable: Stage, tmp_path: Path
) -> None:
    """The same form twice, as a client does it whose first answer was lost: `times` is what bounds it."""
    stage = reachable
    client = ByCertificate(f"spiffe://{stage.domain}/{WORKER}", await svid_files(stage, WORKER, tmp_path))
    metadata, step = await asyncio.to_thread(discovered, stage), await workers_step(stage)
    form = exchange_form(step.step, BANK, DETAILS)
    got = [await asyncio.to_thread(client.get, metadata, form) for _ in range(5)]
    assert len({each["grant"] for each in got}) == 5
    with pytest.raises(OAuthError) as over:
        await asyncio.to_thread(client.get, metadata, form)
    assert over.value.error == "access_denied"


async def test_by_a_jwt_svid(reachable: Stage) -> None:
    stage = reachable
    client, metadata = ByAssertion(stage, WORKER), await asyncio.to_thread(discovered, stage)
    step = await workers_step(stage)
    assert "spiffe_jwt" in metadata["token_endpoint_auth_methods_supported"]
    form = exchange_form(step.step, BANK, DETAILS)
    with client.session() as session:

        def get() -> dict[str, Any]:
            return dict(session.fetch_token(metadata["token_endpoint"], **form))

        with pytest.raises(OAuthError) as first:
            await asyncio.to_thread(get)
        assert first.value.error == "use_dpop_nonce"
        token = (await asyncio.to_thread(get))["access_token"]
        asked = await asyncio.to_thread(
            session.introspect_token, metadata["introspection_endpoint"], token=token
        )
        assert asked.json()["active"] is True
        ended = await asyncio.to_thread(session.revoke_token, metadata["revocation_endpoint"], token=token)
        assert (ended.status_code, ended.json()) == (200, {})
        asked = await asyncio.to_thread(
            session.introspect_token, metadata["introspection_endpoint"], token=token
        )
        assert asked.json() == {"active": False}
    assert not await is_active_at(stage, token)


async def test_errors_are_read_as_oauth_errors(reachable: Stage, tmp_path: Path) -> None:
    stage = reachable
    client = ByCertificate(f"spiffe://{stage.domain}/{WORKER}", await svid_files(stage, WORKER, tmp_path))
    metadata, step = await asyncio.to_thread(discovered, stage), await workers_step(stage)
    good = exchange_form(step.step, BANK, DETAILS)
    wrong = {
        "invalid_target": {**good, "resource": "https://nobody.example"},
        "invalid_scope": {**good, "scope": "all"},
        "invalid_authorization_details": {**good, "authorization_details": "[{}]"},
        "invalid_request": {**good, "subject_token": "stp_x"},
        "unsupported_grant_type": {**good, "grant_type": "client_credentials"},
    }
    for error, form in wrong.items():
        with pytest.raises(OAuthError) as told:
            await asyncio.to_thread(client.get, metadata, form)
        assert told.value.error == error
    assert (await asyncio.to_thread(client.get, metadata, good))["access_token"]


class Validator(JWTBearerTokenValidator):  # type: ignore[misc]
    """RFC 9068 section 4, by Authlib, with the keys that we publish."""

    def __init__(self, keys: KeySet, **names: str) -> None:
        super().__init__(**names)
        self._keys = keys

    def get_jwks(self) -> KeySet:
        return self._keys


async def test_authlib_verifies_a_credential_as_rfc_9068_has_it(reachable: Stage) -> None:
    stage = reachable
    held = await stage.held()
    metadata = await asyncio.to_thread(discovered, stage)

    def keys() -> KeySet:
        with OAuth2Session() as session:
            session.trust_env, session.verify = False, str(stage.folder / "tls.crt")
            return KeySet.import_key_set(session.get(metadata["jwks_uri"], withhold_token=True).json())

    validator = Validator(await asyncio.to_thread(keys), issuer=stage.issuer_url, resource_server=BANK)
    claims = validator.authenticate_token(held.token)
    validator.validate_token(claims, [], None)
    assert jws.extract_compact(held.token.encode()).headers()["typ"] == "at+jwt"
    assert claims["client_id"] == claims["act"]["sub"] == held.ledger.id
    assert claims["act"]["act"] == {"sub": held.opened.by.id}
    assert claims["cnf"] == {"jkt": held.ledger.key.thumbprint}
    assert claims["exp"] - claims["iat"] <= 60
    assert claims["authorization_details"][0]["type"] == "stepwrit_action"
    elsewhere = Validator(
        validator.get_jwks(), issuer=stage.issuer_url, resource_server="https://shop.example"
    )
    with pytest.raises(Exception, match="invalid_token"):
        elsewhere.validate_token(elsewhere.authenticate_token(held.token), [], None)
    step_token = Validator(validator.get_jwks(), issuer=stage.issuer_url, resource_server=stage.domain)
    with pytest.raises(Exception, match="invalid_token"):
        step_token.validate_token(step_token.authenticate_token(held.opened.token), [], None)
