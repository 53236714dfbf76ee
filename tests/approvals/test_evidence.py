"""Vectors: signatures as a ledger holds them. What verified once verifies for as long as the log is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwrit.digest import b64u, unb64u
from stepwrit_broker.approvals import evidence as proofs
from stepwrit_broker.approvals.evidence import DoesNotHold

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "approval-evidence.json").read_text())
CASES: dict[str, dict[str, Any]] = {each["name"]: each for each in VECTORS["cases"]}
OTHER = b64u(bytes(32))


def check(case: dict[str, Any], evidence: dict[str, Any], digest: str = VECTORS["digest"]) -> None:
    """As an auditor does."""
    match case["method"]:
        case "webauthn":
            assert proofs.check_webauthn(evidence, digest, VECTORS["issuer"]) == VECTORS["issuer"]
        case "key":
            meant = {"approval": VECTORS["approval"], "authenticator": case["authenticator"]}
            proofs.check_key(evidence, digest, issuer=VECTORS["issuer"], **meant)
        case _:
            proofs.check_oidc(evidence, digest)
            proofs.check_id_token(evidence, case["id_token"])


@pytest.mark.parametrize("name", CASES)
def test_a_signature_of_the_vectors_holds_over_its_digest_alone(name: str) -> None:
    case = CASES[name]
    check(case, case["evidence"])
    with pytest.raises(DoesNotHold):
        check(case, case["evidence"], OTHER)


@pytest.mark.parametrize(("name", "member"), [(n, m) for n, c in CASES.items() for m in c["evidence"]])
def test_no_member_of_the_evidence_can_be_changed_or_left_out(name: str, member: str) -> None:
    case = CASES[name]
    check(case, case["evidence"])
    rest = {key: value for key, value in case["evidence"].items() if key != member}
    for changed in (
        rest,
        {**rest, member: 7},
        {**rest, member: ""},
        {**rest, member: _other(rest, member, case)},
    ):
        with pytest.raises(DoesNotHold):
            check(case, changed)


def _other(_rest: dict[str, Any], member: str, case: dict[str, Any]) -> Any:
    """The same in form, and another."""
    value = case["evidence"][member]
    if isinstance(value, dict):
        theirs = next(each for each in CASES.values() if each["method"] == "webauthn")
        return json.loads(theirs["evidence"]["public_key"])
    if member == "public_key":
        keys = [each["evidence"]["public_key"] for each in CASES.values() if "public_key" in each["evidence"]]
        return next(each for each in keys if each != value)
    if member in ("statement", "issuer", "client_id", "acr"):
        return value + "x"
    if not isinstance(value, str):
        return value + 1
    raw = bytearray(unb64u(value))
    raw[-1] ^= 1
    return b64u(bytes(raw))


def test_an_id_token_that_is_not_the_one_shown_does_not_hold() -> None:
    case = CASES["oidc"]
    with pytest.raises(DoesNotHold, match="not the one that was shown"):
        proofs.check_id_token(case["evidence"], case["id_token"] + "x")
