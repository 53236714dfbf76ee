"""OpenSSH's own programs make the signatures: a key in a file, one with a passphrase, one in ssh-agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio
from tests.cli.conftest import STEPWRIT, free_port
from tests.fakes.approver import ApprovalStage

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]
KINDS = {"ed25519": ["-t", "ed25519"], "ecdsa": ["-t", "ecdsa", "-b", "256"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[ApprovalStage]:
    async with ApprovalStage(issuer=f"https://localhost:{free_port()}") as made:
        yield made


async def program(*args: object, env: dict[str, str] | None = None, code: int = 0, **how: Any) -> bytes:
    """Run it; its standard output."""
    environ = {**os.environ, **(env or {})}
    given = [str(each) for each in args]

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(given, check=False, capture_output=True, timeout=60, env=environ, **how)

    done = await anyio.to_thread.run_sync(run)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


async def made(stage: ApprovalStage, folder: Path, kind: str, passphrase: str = "") -> Path:
    """A key of ssh-keygen's, registered for alice."""
    key = folder / "id"
    await program("ssh-keygen", "-q", *KINDS[kind], "-N", passphrase, "-C", "alice", "-f", key)
    where = ("--admin", stage.folder / "admin.sock")
    await program(
        *STEPWRIT,
        "authenticators",
        "add",
        "--person",
        "alice",
        "--key",
        f"{key}.pub",
        "--reason",
        "met",
        *where,
    )
    return key


def approve(stage: ApprovalStage, name: str, *more: object) -> tuple[object, ...]:
    ca = stage.folder / "tls.crt"
    return (*STEPWRIT, "approve", name, "--url", stage.issuer_url, "--ca", ca, *more)


async def digest_of(stage: ApprovalStage, news: dict[str, Any]) -> str:
    record = await stage.broker.house.approvals.approval(news["id"])
    assert record is not None
    return record.asked.digest


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_file_of_ssh_keygen_signs(stage: ApprovalStage, tmp_path: Path, kind: str) -> None:
    news, key = await stage.asked(args={"n": kind}), await made(stage, tmp_path, kind)
    sure = ("--yes", "--digest", await digest_of(stage, news))
    assert b"is given" in await program(*approve(stage, news["id"], "--key", key, *sure))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_ssh_keygen_signs_of_the_printed_document_is_taken(
    stage: ApprovalStage, tmp_path: Path, kind: str
) -> None:
    news, key = await stage.asked(args={"n": f"print {kind}"}), await made(stage, tmp_path, kind)
    doc = tmp_path / "doc"
    doc.write_bytes(await program(*approve(stage, news["id"], "--key", key, "--print")))
    await program("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "file", doc)
    hand_in = approve(stage, news["id"], "--signature", f"{doc}.sig")
    await program(*hand_in, code=1)
    assert (await stage.polled(news)).code == "authorization_pending"
    (tmp_path / "doc.sig").unlink()
    await program("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "approval.stepwrit.dev", doc)
    assert b"is given" in await program(*hand_in)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_in_the_agent_signs_without_its_file(
    stage: ApprovalStage, tmp_path: Path, kind: str
) -> None:
    news, key = await stage.asked(args={"n": f"agent {kind}"}), await made(stage, tmp_path, kind)
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            while not socket.exists():
                await anyio.sleep(0.05)
            env = {"SSH_AUTH_SOCK": str(socket)}
            await program("ssh-add", "-q", key, env=env)
            key.unlink()
            sure = ("--key", f"{key}.pub", "--yes", "--digest", await digest_of(stage, news))
            assert b"is given" in await program(*approve(stage, news["id"], *sure), env=env)
        finally:
            agent.send_signal(signal.SIGTERM)


async def test_a_passphrase_is_asked_for_by_ssh_keygen_itself(stage: ApprovalStage, tmp_path: Path) -> None:
    news, key = (
        await stage.asked(args={"n": "passphrase"}),
        await made(stage, tmp_path, "ed25519", "open sesame"),
    )
    ask = tmp_path / "askpass"
    ask.write_text("#!/bin/sh\necho open sesame\n")
    ask.chmod(0o700)
    env = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none"}
    sure = ("--key", key, "--yes", "--digest", await digest_of(stage, news), "--json")
    told = await program(*approve(stage, news["id"], *sure), env=env)
    assert json.loads(told)["state"] == "given"
    assert b"sesame" not in told
    wrong = {**env, "SSH_ASKPASS": "/bin/false"}
    again = await stage.asked(args={"n": "no passphrase"})
    blind = ("--key", key, "--yes", "--digest", await digest_of(stage, again))
    await program(*approve(stage, again["id"], *blind), env=wrong, code=2)
