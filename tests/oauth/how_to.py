"""Runs the commands of docs/how-to/standard-oauth-clients.md as they stand, and judges what they left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.fakes.stage import BANK, Opened, Stage, redeemed, refused, spiffe
from tests.oauth.standard import WORKER, workers_step

from stepwrit.digest import unb64u
from stepwrit.dpop import token_hash, verify_proof
from stepwrit.jws import SigningKey, TokenRefused

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
    await _proof_names_the_credential(folder)


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


async def _proof_names_the_credential(folder: Path) -> None:
    """What "Use it" shows to a resource: the proof is of the credential's key and has its hash."""
    credential, request = _said(folder, "credential")["access_token"], ("POST", f"{BANK}/v1/transfers")
    bound = json.loads(unb64u(credential.split(".")[1]))["cnf"]["jkt"]
    for token, fits in ((credential, True), ("", False)):
        proof = await _run(folder, f"python3 dpop.py {' '.join(request)} '' '{token}'")
        judged = partial(verify_proof, proof.strip(), htm=request[0], htu=request[1], leeway=5, jkt=bound)
        if fits:
            assert judged(now=time.time(), ath=token_hash(credential)).jkt == bound
        else:
            with pytest.raises(TokenRefused, match="ath"):
                judged(now=time.time(), ath=token_hash(credential))


def _said(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


async def _run(folder: Path, script: str, **given: str) -> str:
    """What it printed. A command that fails, fails the test."""
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
    return out.decode()
