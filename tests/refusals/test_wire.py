"""Every case that TLS and HTTP can carry, at every face over the wire, each refusal after its twin."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from tests.refusals.case import Case
from tests.refusals.faces import WIRE
from tests.refusals.generate import build
from tests.refusals.rows import ROWS
from tests.refusals.wire import BEFORE, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")
MATERIAL = build()


NOT_CARRIED = {
    ("broker mtls listener", "x509/begins-now"): "OpenSSL looks at the system's clock, which is before NOW",
    ("SDK client of a server", "x509/begins-now"): "OpenSSL looks at the system's clock, which is before NOW",
    ("SDK client of a server", "x509/two-san-extensions"): "OpenSSL's own server does not load it",
    ("SDK client of a server", "x509/two-key-usages"): "OpenSSL's own server does not load it",
    ("broker tls listener, Bearer", "jwt/empty"): "no HTTP client sends it",
}
INSTEAD = {"x509/begins-now": "x509/plain"}


def carried(face: str, case: Case) -> bool:
    """Bytes that are no certificate have no key, and no TLS side can show them."""
    return (face, case.name) not in NOT_CARRIED and (case.reading == "token" or case.key is not None)


PAIRS = [(face, case) for face, family in WIRE.items() for case in MATERIAL.of(family) if carried(face, case)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand() -> AsyncGenerator[Stand]:
    async with Stand(MATERIAL) as made:
        yield made


@pytest.mark.parametrize(("face", "case"), PAIRS, ids=[f"{face}: {case.name}" for face, case in PAIRS])
async def test_a_case_has_its_verdict_over_the_wire(stand: Stand, face: str, case: Case) -> None:
    if case.code is None:
        assert await stand.ask(face, case) is None
        return
    twin = MATERIAL.twin(case)
    assert await stand.ask(face, MATERIAL.cases[INSTEAD.get(twin.name, twin.name)]) is None, "the control"
    assert await stand.ask(face, case) in {case.code, *BEFORE}


@pytest.mark.parametrize("face", WIRE)
async def test_every_row_is_met_over_the_wire(face: str) -> None:
    met = {case.row for at, case in PAIRS if at == face}
    assert {row.id for row in ROWS if WIRE[face] in row.families} <= met


@pytest.mark.parametrize("face", WIRE)
async def test_our_own_verifier_says_no_in_most_rows(stand: Stand, face: str) -> None:
    """TLS alone would let nearly everything pass: it knows no SPIFFE."""
    refused = [case for at, case in PAIRS if at == face and case.code is not None]
    first = {case.row: case for case in reversed(refused)}
    verdicts = {row: await stand.ask(face, case) for row, case in first.items()}
    assert sum(verdict in BEFORE for verdict in verdicts.values()) < len(verdicts) / 2, verdicts
