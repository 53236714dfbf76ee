"""The whole broker as it is wired together: every case at its two listeners, each refusal after its twin.

Its trust domain's authority is replaced by the one of the cases, and its clock stands still at NOW.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from urllib.parse import urlencode

import httpx2
import pytest
import pytest_asyncio
from tests.fakes.bearer import tls_client
from tests.fakes.stage import Stage, new
from tests.refusals.case import DOMAIN, EMPTY, NOW, PARTNER, Case
from tests.refusals.generate import build
from tests.refusals.rows import ROWS
from tests.refusals.test_wire import INSTEAD, carried
from tests.refusals.wire import showing

from stepwrit.wire import CLIENT_ASSERTION_JWT_SPIFFE

pytestmark = pytest.mark.asyncio(loop_scope="module")
MATERIAL = build()
USUAL = MATERIAL.trusts["usual"]
ENTRIES = [
    {"id": "agent", "role": "agent", "name": "agent", "clients": ["app"], "attest": ["x509", "jwt"],
     "may_start": {"tools": [], "impact": "low"}},
]  # fmt: skip
FACES = ("broker mtls listener", "broker tls listener, client_assertion", "broker tls listener, Bearer")
# the Workload API of development has no JWT bundles but the domain's own
ONLY_OURS = {"jwt/partner": "jwt/plain"}
# it gives JWK sets that hold nothing else, so a key needs no use there; see `test_workload_api`
NO_USE = "jwt/key-without-use"
OTHER_WORD = {
    "jwt/partners-by-our-key": "unknown_trust_domain",
    "jwt/sub-distrusted-domain": "unknown_trust_domain",
}


def pairs() -> list[tuple[str, Case]]:
    wanted = {FACES[0]: "x509", FACES[1]: "jwt", FACES[2]: "jwt"}
    return [
        (face, case)
        for face, family in wanted.items()
        for case in MATERIAL.cases.values()
        if case.family == family
        and case.trust == "usual"
        and carried(face, case)
        and case.name not in (*ONLY_OURS, NO_USE)
    ]


PAIRS = pairs()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[Stage]:
    async with Stage(domain=DOMAIN, entries=ENTRIES) as made:
        clock = made.broker.clock
        clock._wall, clock._elapsed, clock._offset = (lambda: NOW), (lambda: 0.0), NOW
        made.trust._change(lambda: take_over(made))
        made.trust.trust(PARTNER, USUAL.x509[PARTNER])
        made.trust.trust(EMPTY, ())
        for face, case in ((FACES[0], "x509/partner"), (FACES[2], "jwt/plain")):
            for _ in range(1_000):  # the streams are other threads'
                if await verdict(made, face, MATERIAL.cases[case]) is None:
                    break
                await asyncio.sleep(0.01)
        yield made


def take_over(stage: Stage) -> None:
    """The cases' authority publishes from now on; the broker's own SVID is signed by it too."""
    ca, ours = stage.trust.ca, MATERIAL.authority
    ca._key, ca._certificate, ca._published = ours.key, ours.certificate, [ours.der]
    ca._name = lambda: ours.name  # type: ignore[method-assign]
    ca.jwks = lambda: json.dumps({"keys": USUAL.jwks[DOMAIN]}).encode()  # type: ignore[method-assign]


async def verdict(stage: Stage, face: str, case: Case) -> str | None:
    """None: attested, whatever comes after; else the fault, or `before` if it was never verified."""
    try:
        answer = await asked(stage, face, case)
    except (httpx2.TransportError, OSError):
        return "before"
    refusal = answer.json().get("refusal", answer.json())
    kind, _, fault = str(refusal.get("rule")).partition(":")
    if kind in ("x509", "jwt"):
        assert answer.status_code == 401, answer.text
        return "before" if fault == "no_assertion" else fault
    return "before" if answer.status_code == 400 and refusal.get("code") == "invalid_request" else None


async def asked(stage: Stage, face: str, case: Case) -> httpx2.Response:
    """A request that would need a key proof too, if its caller were believed."""
    if face == FACES[0]:
        async with httpx2.AsyncClient(verify=showing(case, server=False), base_url=stage.url) as http:
            return await http.post("/v1/steps", content=b"{}", headers={"idempotency-key": new()})
    async with tls_client(stage) as http:
        if face == FACES[2]:
            return await http.post(
                "/v1/steps", content=b"{}", headers={"authorization": f"Bearer {case.text}"}
            )
        form = {"client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE, "client_assertion": case.text}
        sent = {"content-type": "application/x-www-form-urlencoded"}
        return await http.post("/oauth/token", content=urlencode(form).encode(), headers=sent)


@pytest.mark.parametrize("face", FACES)
async def test_a_registered_caller_gets_as_far_as_its_key_proof(stage: Stage, face: str) -> None:
    plain = MATERIAL.cases["x509/plain" if face == FACES[0] else "jwt/plain"]
    answer = await asked(stage, face, plain)
    assert answer.json()["refusal"]["code"] == "invalid_proof", answer.text


@pytest.mark.parametrize(("face", "case"), PAIRS, ids=[f"{face}: {case.name}" for face, case in PAIRS])
async def test_a_case_has_its_verdict_at_the_whole_broker(stage: Stage, face: str, case: Case) -> None:
    if case.code is None:
        assert await verdict(stage, face, case) is None
        return
    twin = MATERIAL.twin(case).name
    twin = INSTEAD.get(twin, ONLY_OURS.get(twin, twin))
    assert await verdict(stage, face, MATERIAL.cases[twin]) is None, "the positive control"
    assert await verdict(stage, face, case) in {OTHER_WORD.get(case.name, case.code), "before"}


async def test_every_row_is_met_at_the_whole_broker() -> None:
    odd = {"not-an-authority"}  # of bundles that no Workload API of ours hands out; `test_wire` has it
    for face in FACES:
        met = {case.row for at, case in PAIRS if at == face}
        family = "x509" if face == FACES[0] else "jwt"
        assert {row.id for row in ROWS if family in row.families} - odd <= met
