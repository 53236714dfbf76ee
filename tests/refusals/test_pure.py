"""Every case at every verifier that is a function; each refusal after its twin was accepted there."""

from __future__ import annotations

import pytest
from tests.refusals.case import Case
from tests.refusals.faces import PURE
from tests.refusals.generate import build

MATERIAL = build()
PAIRS = [(face, case) for face, (family, _) in PURE.items() for case in MATERIAL.of(family)]


@pytest.mark.parametrize(("face", "case"), PAIRS, ids=[f"{face}: {case.name}" for face, case in PAIRS])
def test_a_case_has_its_verdict_at_a_face(face: str, case: Case) -> None:
    _, judge = PURE[face]
    if case.code is not None:
        twin = MATERIAL.twin(case)
        assert judge(twin, MATERIAL.trusts[twin.trust]) is None, "the positive control"
    assert judge(case, MATERIAL.trusts[case.trust]) == case.code
