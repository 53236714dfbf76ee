"""The line driver, driven as a foreign suite would: by the files that `tests.refusals.generate` wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.spiffe.judge import answer_line
from tests.refusals.case import DOMAIN

ROOT = Path(__file__).parents[3]
KIND = {"chain": "x509", "token": "jwt", "update": "bundle", "id": "spiffe-id"}


def run(module: str, *arguments: str, said: str = "") -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, input=said, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("refusals")
    run("tests.refusals.generate", str(made))
    return made


def question(folder: Path, manifest: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    asked = {
        "id": case["name"],
        "kind": KIND.get(case["reading"], case["reading"]),
        "input": (folder / case["file"]).read_bytes().decode(),
        "bundle": (folder / case["bundles"]).read_text(),
        "audience": manifest["audience"],
        "now": manifest["now"],
        "sole_audience": True,
        "max_life": manifest["max_life"],
        "trust_domain": DOMAIN,
    }
    return asked | ({"known": (folder / case["known"]).read_text()} if "known" in case else {})


def test_our_own_manifest_gets_the_verdicts_that_it_states(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    cases = {case["name"]: case for case in manifest["cases"]}
    lines = [json.dumps(question(folder, manifest, case)) for case in cases.values()]
    answers = [
        json.loads(line) for line in run("tests.conformance.spiffe", said="\n".join(lines)).splitlines()
    ]
    assert [answer["id"] for answer in answers] == list(cases)
    odd_bundle = {"x509/leaf-as-anchor", "x509/unreadable-anchor"}  # its parser says no before the verifier
    for answer in answers:
        case = cases[answer["id"]]
        assert "error" not in answer, answer
        assert answer["accepted"] is case["accepted"], answer
        assert answer.get("reason") == ("bundle" if case["name"] in odd_bundle else case["code"]), answer


def test_the_manifest_names_every_file_and_no_private_key_is_among_them(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    named = {case[key] for case in manifest["cases"] for key in ("file", "bundles", "known") if key in case}
    there = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert there == named | {"manifest.json"}
    assert not any(b"PRIVATE" in file.read_bytes() for file in folder.rglob("*.*"))


def test_what_is_no_question_is_an_error_and_never_a_refusal() -> None:
    good = {"kind": "spiffe-id", "input": "spiffe://a.test/x"}
    assert answer_line(json.dumps(good)) == {"accepted": True, "spiffe_id": "spiffe://a.test/x"}
    for line in (
        "",
        "[]",
        "{",
        '{"kind": "x"}',
        '{"kind": "jwt"}',
        '{"kind": "x509", "input": [], "now": 1}',
    ):
        answer = answer_line(line)
        assert answer.keys() == {"error"}, line
    assert answer_line('{"kind": "jwt", "id": 7}').keys() == {"id", "error"}
