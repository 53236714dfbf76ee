"""Runs the commands of docs/how-to/standard-oauth-clients.md as they stand, and judges what they left."""

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

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.fakes.stage import BANK, Opened, Stage, redeemed, refused, spiffe
from tests.oauth.standard import WORKER, workers_step

from stepwrit.jws import SigningKey

PAGE = Path(__file__).parents[2] / "docs/how-to/standard-oauth-clients.md"


def blocks(language: str) -> list[str]:
    """The page's code in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


async def follow(stage: Stage, folder: Path, jwt_svid: str) -> Opened:
    """Do what the page says, in a folder that has the SVID's files; the step that it did it for."""
    (program,) = blocks("python")
    (folder / "dpop.py").write_text(program)
    opened = await workers_step(stage)
    await _run(
        folder,
        "\n".join(blocks("sh")),
        ISSUER=stage.issuer_url,
        ISSUER_CA=str(stage.folder / "tls.crt"),
        STEP=opened.step,
        CLIENT_ID=spiffe(WORKER, stage.domain),
        JWT_SVID=jwt_svid,
    )
    return opened


async def check(stage: Stage, folder: Path, opened: Opened) -> None:
    """Both ways got a live credential, and ended it; over the wire it is not redeemed any more."""
    assert _said(folder, "first")["error"] == "use_dpop_nonce"
    client = spiffe(WORKER, stage.domain)
    for way in ("", "jwt-"):
        credential, live = _said(folder, f"{way}credential"), _said(folder, f"{way}live")
        assert credential["token_type"] == "DPoP"
        assert (live["active"], live["aud"], live["client_id"]) == (True, BANK, client)
        assert live["jti"] == credential["grant"]
        assert _said(folder, f"{way}ended") == {"active": False}
    await _no_redeem(stage, folder, opened)


async def _no_redeem(stage: Stage, folder: Path, opened: Opened) -> None:
    """With the client's own key: what was not revoked is redeemed, what was is refused."""
    private = load_pem_private_key((folder / "dpop.pem").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    worker = replace(await stage.actor(WORKER), key=SigningKey(private))
    bank = await stage.actor("resource/bank/1")
    kept = (await worker.credential(opened.step)).ok()["access_token"]
    (await bank.redeem(kept, worker)).ok()
    for way in ("", "jwt-"):
        token = _said(folder, f"{way}credential")["access_token"]
        refused(stage, await bank.redeem(token, worker), "revoked")
    assert redeemed(stage, opened.txn) == 1


def _said(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


async def _run(folder: Path, script: str, **given: str) -> None:
    """A command that fails, fails the test."""
    bash = shutil.which("bash")
    assert bash, "bash is missing"
    for program in ("curl", "openssl", "awk"):
        assert shutil.which(program), f"{program} is missing: apt-get install {program}"
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), **given}
    process = await asyncio.create_subprocess_exec(
        bash, "-euo", "pipefail", "-c", script,
        cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    answers = {each.name: each.read_text() for each in folder.glob("*credential.json")}
    assert process.returncode == 0, (out.decode(), err.decode(), answers)
