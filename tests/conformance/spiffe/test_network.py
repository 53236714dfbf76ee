"""The network harness as its own process, against a Workload API: what it accepts, refuses and follows."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
import time
import warnings
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from tests.fakes.pki import FakeCa, Issued, raw_client

from stepwrit_broker.dev.workload_api import DevTrustDomain

ROOT = Path(__file__).parents[3]
DOMAIN, AUDIENCE = "suite.test", "conformance"
PEER = f"spiffe://{DOMAIN}/peer"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Suite:
    """What a suite has: the Workload API, the authority behind it, and the harness's ports."""

    def __init__(self, trust: DevTrustDomain, ports: dict[str, int]) -> None:
        self.trust, self.ports = trust, ports

    @property
    def authority(self) -> FakeCa:
        """The domain's own CA, for certificates that it would never sign."""
        ca = FakeCa(DOMAIN, now=time.time())
        ca.key, ca.name = self.trust.ca._key, self.trust.ca._certificate.subject
        return ca

    async def post(self, path: str, members: Any) -> tuple[int, dict[str, Any]]:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.ports['CONTROL']}") as http:
            answer = await http.post(path, json=members)
        return answer.status_code, answer.json()

    async def validate(self, token: str) -> tuple[int, str]:
        status, said = await self.post("/v1/jwt/validate", {"token": token, "audience": AUDIENCE})
        return status, said["status"]

    async def greeted(self, shown: Issued | None) -> str:
        """What the X.509 port says to a client; nothing when it is refused."""
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.ports["X509"], ssl=raw_client(shown)
            )
            line = await reader.read()
            writer.close()
        except (ssl.SSLError, ConnectionError):
            return ""
        return line.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Suite]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trust = DevTrustDomain(tmp_path_factory.mktemp("w"), trust_domain=DOMAIN)
        await trust.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.spiffe", "serve",
        cwd=ROOT,
        env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": trust.socket_for("harness")},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    said = [(await process.stdout.readline()).decode().strip() for _ in range(4)]
    try:
        assert (said[0], said[3]) == ("SPIFFE_HARNESS_VERSION=1", "READY")
        yield Suite(trust, {line.split("_")[1]: int(line.split("=")[1]) for line in said[1:3]})
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await trust.stop()


async def test_a_token_is_validated_by_the_bundles_of_the_workload_api(suite: Suite) -> None:
    make = suite.trust.ca.jwt_svid
    for audience in ([AUDIENCE], ["other", AUDIENCE]):
        assert await suite.validate(make(PEER, audience)) == (200, "ok")
    for bad in (
        make(PEER, ["other"]),
        make(PEER, [AUDIENCE], exp=int(time.time()) - 1),
        make("spiffe://other.test/peer", [AUDIENCE]),
        make(f"spiffe://{DOMAIN}", [AUDIENCE]),
        make(PEER, [AUDIENCE]) + "==",
        "not a token",
    ):
        assert await suite.validate(bad) == (422, "rejected")


async def test_a_client_is_greeted_by_its_id_or_by_nothing(suite: Suite) -> None:
    ca = suite.authority
    assert await suite.greeted(ca.issue(PEER)) == f"{PEER}\n"
    for bad in (
        None,
        FakeCa(DOMAIN, now=time.time()).issue(PEER),
        ca.issue("spiffe://other.test/peer"),
        ca.issue(f"spiffe://{DOMAIN}"),
        ca.issue(PEER, uris=(PEER, PEER)),
        ca.issue(PEER, is_ca=True),
        ca.issue(PEER, usage=("digital_signature", "crl_sign")),
    ):
        assert await suite.greeted(bad) == ""


async def test_it_dials_as_the_sdks_client(suite: Suite) -> None:
    async def dialled(shown: Issued) -> tuple[int, dict[str, Any]]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        from tests.fakes.pki import load_key_pair

        load_key_pair(context, shown)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await suite.post("/v1/x509/dial", {"address": f"127.0.0.1:{port}"})

    ca = suite.authority
    assert await dialled(ca.issue(PEER)) == (200, {"status": "ok", "spiffe_id": PEER})
    for bad in (
        ca.issue(f"spiffe://{DOMAIN}"),
        ca.issue("spiffe://other.test/x"),
        ca.issue(PEER, uris=(PEER, PEER)),
    ):
        status, said = await dialled(bad)
        assert (status, said["status"]) == (422, "rejected")


async def test_it_fetches_one_audience_and_says_what_it_cannot(suite: Suite) -> None:
    status, said = await suite.post("/v1/jwt/fetch", {"audience": [AUDIENCE], "spiffe_id": ""})
    assert (status, said["svids"][0]["spiffe_id"]) == (200, f"spiffe://{DOMAIN}/harness")
    assert await suite.validate(said["svids"][0]["token"]) == (200, "ok")
    assert (await suite.post("/v1/jwt/fetch", {"audience": ["a", "b"]}))[0] == 501
    assert (await suite.post("/v1/nothing", {}))[0] == 501


async def test_a_broken_question_is_an_error_and_never_a_refusal(suite: Suite) -> None:
    assert (await suite.post("/v1/jwt/validate", {"audience": AUDIENCE}))[0] == 500
    assert (await suite.post("/v1/jwt/validate", [1]))[0] == 500
    assert (await suite.post("/v1/x509/dial", {"address": "127.0.0.1:1"}))[0] == 500


async def test_it_follows_a_withdrawal(suite: Suite) -> None:
    """Last: nothing is believed afterwards."""
    token, peer = suite.trust.ca.jwt_svid(PEER, [AUDIENCE]), suite.authority.issue(PEER)
    assert await suite.validate(token) == (200, "ok")
    assert await suite.greeted(peer) == f"{PEER}\n"
    suite.trust.withdraw()
    for _ in range(1_000):  # the stream is another thread's
        if (await suite.validate(token))[0] == 422 and await suite.greeted(peer) == "":
            return
        await asyncio.sleep(0.01)
    pytest.fail("a withdrawn bundle is still believed")
