"""The commands of docs/how-to/standard-oauth-clients.md, run as they stand, by bash and curl."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.fakes.stage import BANK, ENTRIES, Opened, Stage, redeemed, refused, spiffe
from tests.oauth.foreign import write_svid
from tests.oauth.standard import BEARER_ENTRIES, WORKER, free_port, workers_step

from stepwrit.jws import SigningKey

HOW_TO = Path(__file__).parents[3] / "docs/how-to/standard-oauth-clients.md"

pytestmark = pytest.mark.live


def blocks(language: str) -> list[str]:
    """The page's code in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)


async def run(folder: Path, script: str, **given: str) -> str:
    """What the script prints; a command that fails, fails the test."""
    bash, curl = shutil.which("bash"), shutil.which("curl")
    assert bash, "bash is missing"
    assert curl, "curl is missing: apt-get install curl"
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), **given}
    process = await asyncio.create_subprocess_exec(
        bash, "-euo", "pipefail", "-c", script,
        cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    told = {each.name: each.read_text() for each in folder.glob("*credential.json")}
    assert process.returncode == 0, (out.decode(), err.decode(), told)
    return out.decode()


async def test_the_page_gets_introspects_and_revokes_both_ways(tmp_path: Path) -> None:
    issuer = f"https://localhost:{free_port()}"
    async with Stage(entries=[*ENTRIES, *BEARER_ENTRIES], issuer=issuer) as stage:
        issued = stage.trust.ca.x509_svid(spiffe(WORKER))
        write_svid(tmp_path, issued.certificate, issued.key, stage.trust.ca.authorities)
        (program,) = blocks("python")
        (tmp_path / "dpop.py").write_text(program)
        opened = await workers_step(stage)
        await run(
            tmp_path,
            "\n".join(blocks("sh")),
            ISSUER=issuer,
            ISSUER_CA=str(stage.folder / "tls.crt"),
            STEP=opened.step,
            CLIENT_ID=spiffe(WORKER),
            JWT_SVID=stage.trust.ca.jwt_svid(spiffe(WORKER), [issuer]),
        )

        def said(name: str) -> dict[str, Any]:
            return dict(json.loads((tmp_path / f"{name}.json").read_text()))

        assert said("first")["error"] == "use_dpop_nonce"
        for way in ("", "jwt-"):
            credential, live = said(f"{way}credential"), said(f"{way}live")
            assert credential["token_type"] == "DPoP"
            assert (live["active"], live["aud"], live["client_id"]) == (True, BANK, spiffe(WORKER))
            assert live["jti"] == credential["grant"]
            assert said(f"{way}ended") == {"active": False}
        tokens = [said(f"{way}credential")["access_token"] for way in ("", "jwt-")]
        await no_redeem(stage, opened, tmp_path, *tokens)


async def no_redeem(stage: Stage, opened: Opened, folder: Path, *tokens: str) -> None:
    """Over the wire, with the client's own key: what was not revoked is redeemed, what was is refused."""
    private = load_pem_private_key((folder / "dpop.pem").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    worker = replace(await stage.actor(WORKER), key=SigningKey(private))
    bank = await stage.actor("resource/bank/1")
    kept = (await worker.credential(opened.step)).ok()["access_token"]
    (await bank.redeem(kept, worker)).ok()
    for token in tokens:
        refused(stage, await bank.redeem(token, worker), "revoked")
    assert redeemed(stage, opened.txn) == 1
