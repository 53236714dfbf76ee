"""Make every case with fresh keys, at one fixed moment; on the command line, write them to a folder.

python -m tests.refusals.generate DIR

DIR gets `manifest.json`, `bundles/NAME.json` (one bundle map for each set of trust) and a file for each case.
Names are the same every time; keys, serial numbers and signatures are not. No private key is written.
"""

from __future__ import annotations

import json
import ssl
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.refusals import certificates, documents, ids, tokens
from tests.refusals.case import AUDIENCE, MAX_LIFE_S, NOW, Case, Material, Trust, collect

SUFFIX = {
    "chain": "pem",
    "token": "jwt",
    "bundle": "json",
    "bundle-map": "json",
    "update": "json",
    "id": "txt",
}


@cache
def build() -> Material:
    """All cases; made once in a process."""
    by, keys = certificates.Authorities(), tokens.Keys()
    chains = certificates.cases(by)
    odd = certificates.odd_anchors(by, chains)
    jwks = keys.jwks()
    jwk = next(each for each in jwks["a.test"] if each["kid"] == "p256")
    docs = documents.cases(by.ours.der, odd["leaf-as-anchor"], odd["unreadable-anchor"], jwk)
    trusts = [Trust(name="usual", x509=by.x509(), jwks=jwks), *certificates.trusts(by, odd)]
    return Material(
        authority=by.ours,
        cases=collect(chains, tokens.cases(keys), docs, ids.cases()),
        trusts={each.name: each for each in trusts},
    )


def write(folder: Path, material: Material) -> None:
    """The files, and a manifest that names them."""
    (folder / "bundles").mkdir(parents=True, exist_ok=True)
    for trust in material.trusts.values():
        (folder / "bundles" / f"{trust.name}.json").write_bytes(trust.document())
    listed = [_write(folder, case) for case in material.cases.values()]
    about: dict[str, Any] = {"now": NOW, "audience": AUDIENCE, "max_life": MAX_LIFE_S, "cases": listed}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")


def _write(folder: Path, case: Case) -> dict[str, Any]:
    file = Path(f"{case.name}.{SUFFIX[case.reading]}")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(_bytes(case))
    said: dict[str, Any] = {
        "name": case.name, "row": case.row, "reading": case.reading, "file": str(file), "twin": case.twin,
        "accepted": case.code is None, "code": case.code, "bundles": f"bundles/{case.trust}.json",
    }  # fmt: skip
    if case.known is not None:
        known = file.with_suffix(".known.json")
        (folder / known).write_bytes(case.known)
        said["known"] = str(known)
    return said


def _bytes(case: Case) -> bytes:
    """Certificates in PEM, leaf first, whatever their bytes; text as UTF-8."""
    if isinstance(case.input, tuple):
        return "".join(ssl.DER_cert_to_PEM_cert(der) for der in case.input).encode()
    return case.input.encode() if isinstance(case.input, str) else case.input


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), build())
