"""`stepwrit approve`, `deny`, `authenticators add`: against a real broker, with keys in files."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.cli.conftest import STEPWRIT, free_port
from tests.fakes.approver import ApprovalStage, Approver, new_key
from typer.testing import CliRunner, Result

from stepwrit.digest import args_digest
from stepwrit_broker.cli.app import app
from stepwrit_broker.cli.approve import checked
from stepwrit_broker.cli.failures import CommandFailed
from stepwrit_broker.core.approval_text import text_digest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[ApprovalStage]:
    async with ApprovalStage(issuer=f"https://localhost:{free_port()}") as made:
        yield made


def write_key(folder: Path, private: Any, form: PrivateFormat = PrivateFormat.OpenSSH) -> Path:
    path = folder / "id"
    path.write_bytes(private.private_bytes(Encoding.PEM, form, NoEncryption()))
    path.chmod(0o600)
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(line + b" alice@laptop\n")
    return path


Run = Callable[..., Any]


@pytest.fixture
def run(stage: ApprovalStage) -> Run:
    """A command in another thread, so that the broker here can answer it."""

    async def running(*args: object, code: int = 0) -> Result:
        where = ["--url", stage.issuer_url, "--ca", str(stage.folder / "tls.crt")]
        given = [str(each) for each in args] + (where if args[0] in ("approve", "deny") else [])
        result: Result = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, given))
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return running


async def registered(stage: ApprovalStage, run: Run, folder: Path, kind: str = "ed25519", **how: Any) -> Path:
    path = write_key(folder, new_key(kind), **how)
    where = ("--admin", stage.folder / "admin.sock")
    added = await run(
        "authenticators", "add", "--person", "alice", "--key", f"{path}.pub", "--reason", "met", *where
    )
    assert "fingerprint " in added.stdout
    return path


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
@pytest.mark.parametrize("kind", ["ed25519", "p256"])
async def test_what_was_read_is_signed_by_its_digest(
    stage: ApprovalStage, run: Run, tmp_path: Path, kind: str, form: PrivateFormat
) -> None:
    news, key = await stage.asked(), await registered(stage, run, tmp_path, kind, form=form)
    listed = json.loads((await run("approve", "--key", key, "--json")).stdout)["waiting"]
    assert listed[0]["id"] == news["id"]
    assert news["id"] in (await run("approve", "--key", key)).stdout
    blind = await run("approve", news["id"], "--key", key, "--yes", code=2)
    assert "needs --digest" in blind.stderr
    unread = await run("approve", news["id"], "--key", key, code=1)
    assert "nobody to ask" in unread.stderr
    assert "Allow ledger/wipe once, of high impact." in unread.stderr
    other = await run("approve", news["id"], "--key", key, "--yes", "--digest", "A" * 43, code=1)
    assert "another digest than you gave" in other.stderr
    done = await run("approve", news["url"], "--key", key, "--yes", "--digest", listed[0]["digest"])
    assert f"signed: {news['id']} is given" in done.stdout
    assert (await stage.polled(news)).ok()
    over = await run("approve", news["id"], "--key", key, "--json", code=1)
    assert "this approval is" in over.stderr


async def test_denying_freezes_where_that_is_asked(stage: ApprovalStage, run: Run, tmp_path: Path) -> None:
    news, key = await stage.asked(args={"n": "deny"}), await registered(stage, run, tmp_path)
    done = await run("deny", news["id"], "--key", key, "--reason", "not mine", "--freeze")
    assert "its transaction is frozen" in done.stdout
    assert (await stage.polled(news)).code in ("access_denied", "frozen")
    again = await run("deny", news["id"], "--key", key, "--reason", "again", "--json", code=1)
    assert again.stderr


@pytest.mark.parametrize(("typed", "outcome"), [("allow", "is given"), ("yes", "nothing was signed")])
async def test_at_a_terminal_a_word_is_asked_for(
    stage: ApprovalStage, run: Run, tmp_path: Path, typed: str, outcome: str
) -> None:
    news, key = await stage.asked(args={"n": typed}), await registered(stage, run, tmp_path)
    command = [*STEPWRIT, "approve", news["url"], "--key", str(key), "--ca", str(stage.folder / "tls.crt")]
    seen = await anyio.to_thread.run_sync(lambda: _at_a_terminal(command, typed))
    assert "Allow ledger/wipe once" in seen
    assert outcome in seen
    if outcome != "is given":
        assert (await stage.polled(news)).code == "authorization_pending"


def _at_a_terminal(command: list[str], typed: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = ""
        with suppress(OSError):  # the terminal is gone when the command is
            while chunk := os.read(ours, 4096).decode():
                seen += chunk
                if seen.endswith("once: "):
                    os.write(ours, f"{typed}\n".encode())
        process.wait(30)
    os.close(ours)
    return seen


async def test_what_is_printed_is_signed_elsewhere_and_handed_in(
    stage: ApprovalStage, run: Run, tmp_path: Path
) -> None:
    news, key = await stage.asked(args={"n": "print"}), await registered(stage, run, tmp_path)
    printed = await run("approve", news["id"], "--key", key, "--print")
    assert printed.stdout_bytes.startswith(b"approval.stepwrit.dev v1\n{")
    assert "Allow ledger/wipe once" in printed.stderr
    (tmp_path / "doc").write_bytes(printed.stdout_bytes)
    (tmp_path / "doc.sig").write_text("hello")
    bad = await run("approve", news["id"], "--signature", tmp_path / "doc.sig", code=1)
    assert "are not what" in bad.stderr
    vector = Path("tests/vectors/sshsig/ed25519.approval.stepwrit.dev.sig").read_text()
    (tmp_path / "doc.sig").write_text(vector)
    other = await run("approve", "apr_100" + "0" * 26, "--signature", tmp_path / "doc.sig", code=1)
    assert "another approval" in other.stderr
    foreign = await run("approve", news["id"], "--signature", tmp_path / "doc.sig", code=1)
    assert "does not hold" in foreign.stderr


async def test_keys_that_are_not_for_it_are_told_why(stage: ApprovalStage, run: Run, tmp_path: Path) -> None:
    key = await registered(stage, run, tmp_path)
    await run("approve", "--key", key)
    key.chmod(0o644)
    assert "chmod 600" in (await run("approve", "--key", key, code=2)).stderr
    key.chmod(0o600)
    weak = rsa.generate_private_key(65537, 2048)
    key.write_bytes(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "neither an Ed25519 nor a P-256" in (await run("approve", "--key", key, code=2)).stderr
    locked = new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    key.write_bytes(locked)
    assert "never asked for here" in (await run("approve", "--key", key, code=2)).stderr
    key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert "not a private key" in (await run("approve", "--key", key, code=2)).stderr
    assert (await run("approve", "--key", tmp_path / "none", code=1)).stderr


@pytest.mark.parametrize(
    "place",
    [
        "http://localhost:1/approvals/{}",
        "https://u@h/approvals/{}",
        "https://h/x/approvals/{}",
        "apr_1",
        "https://h/{}",
    ],
)
async def test_what_is_no_approval_of_an_issuer_is_refused_before_anything_is_sent(
    run: Run, place: str
) -> None:
    assert (await run("approve", place.format("apr_100" + "0" * 26), code=2)).stderr


def fake_ssh_keygen(folder: Path) -> Path:
    """A program of that name that signs with the key that `ssh-agent` would hold: a file `held`."""
    program = folder / "bin" / "ssh-keygen"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.fakes.sshsig import sign\n"
        "assert sys.argv[1:4] == ['-q', '-Y', 'sign'], sys.argv\n"
        f"sign({str(folder / 'held')!r}, sys.argv[7])\n"
    )
    program.chmod(0o700)
    return program.parent


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
async def test_a_key_that_only_ssh_keygen_reaches_signs_by_it(
    stage: ApprovalStage, run: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    news, key = await stage.asked(args={"n": f"agent {kind}"}), await registered(stage, run, tmp_path, kind)
    programs = fake_ssh_keygen(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    away = await run("approve", "--key", f"{key}.pub", code=2)
    assert "ssh-keygen, which is not here" in away.stderr
    monkeypatch.setenv("PATH", str(programs))
    unheld = await run("approve", "--key", f"{key}.pub", code=2)
    assert "ssh-keygen did not sign" in unheld.stderr
    key.rename(tmp_path / "held")
    listed = json.loads((await run("approve", "--key", f"{key}.pub", "--json")).stdout)["waiting"]
    digest = next(each["digest"] for each in listed if each["id"] == news["id"])
    done = await run("approve", news["id"], "--key", f"{key}.pub", "--yes", "--digest", digest)
    assert "is given" in done.stdout


def locked_like(public: bytes) -> str:
    """A file with a passphrase as OpenSSH writes it (PROTOCOL.key), of this key; what is locked is junk."""

    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4) + data

    options = string(bytes(16)) + (16).to_bytes(4)
    head = string(b"aes256-ctr") + string(b"bcrypt") + string(options) + (1).to_bytes(4)
    blob = b"openssh-key-v1\0" + head + string(base64.b64decode(public.split()[1])) + string(bytes(96))
    text = base64.encodebytes(blob).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}-----END OPENSSH PRIVATE KEY-----\n"


async def test_a_key_with_a_passphrase_goes_to_ssh_keygen_which_asks_for_it(
    stage: ApprovalStage, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await registered(stage, run, tmp_path)
    key.rename(tmp_path / "held")
    key.write_text(locked_like(Path(f"{key}.pub").read_bytes()))
    key.chmod(0o600)
    monkeypatch.setenv("PATH", str(fake_ssh_keygen(tmp_path)))
    await run("approve", "--key", key)
    Path(f"{key}.pub").unlink()
    assert "to say which it is" in (await run("approve", "--key", key, code=2)).stderr


async def test_the_usual_key_is_taken_where_none_is_named(
    stage: ApprovalStage, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "give --key FILE" in (await run("approve", code=2)).stderr
    key = await registered(stage, run, tmp_path)
    (tmp_path / ".ssh").mkdir()
    key.rename(tmp_path / ".ssh" / "id_ecdsa")
    await run("approve")


async def test_where_no_broker_is_or_something_else_answers_is_told(
    stage: ApprovalStage, tmp_path: Path
) -> None:
    key = write_key(tmp_path, new_key())
    where = ("--key", str(key), "--ca", str(stage.folder / "tls.crt"))
    nobody = CliRunner().invoke(app, ["approve", *where, "--url", f"https://localhost:{free_port()}"])
    assert nobody.exit_code == 3
    assert "no answer from https://localhost" in nobody.stderr


async def test_without_a_broker_the_way_to_name_one_is_told() -> None:
    result = CliRunner().invoke(app, ["approve"])
    assert result.exit_code == 2
    assert "give --url ISSUER" in result.stderr


# --- what a broker shows


def _answer(**changes: Any) -> dict[str, Any]:
    text = ["Allow a/b once."]
    document = {"id": "apr_1", "text": text_digest(text), "expires_at": 1}
    good = {
        "issuer": "https://b.example", "document": document, "digest": args_digest(document), "text": text,
        "attempt": "n", "missing": 1, "state": "asked",
    }  # fmt: skip
    return {**good, **changes}


LIES: dict[str, dict[str, Any]] = {
    "another text": {"text": ["Allow nothing."]},
    "a line more": {"text": ["Allow a/b once.", ""]},
    "another document": {"document": {**_answer()["document"], "tool": "x"}},
    "another digest": {"digest": "A" * 43},
    "another broker": {"issuer": "https://evil.example"},
    "another approval": {"document": {**_answer()["document"], "id": "apr_2"}},
    "no document": {"document": None},
}


@pytest.mark.parametrize("which", LIES)
async def test_a_broker_that_shows_one_thing_and_asks_for_another_gets_nothing(which: str) -> None:
    assert checked(_answer(), "apr_1", "https://b.example").attempt == "n"
    with pytest.raises(CommandFailed):
        checked(_answer(**LIES[which]), "apr_1", "https://b.example")


async def test_without_a_text_there_is_nothing_to_sign() -> None:
    assert checked(_answer(text=None), "apr_1", "https://b.example").attempt is None


async def test_somebody_elses_key_sees_no_approval(stage: ApprovalStage, run: Run, tmp_path: Path) -> None:
    news, key = await stage.asked(args={"n": "else"}), write_key(tmp_path, new_key())
    assert "not registered" in (await run("approve", news["id"], "--key", key, code=1)).stderr
    carol = await Approver.registered(stage, "carol")
    write_key(tmp_path, carol.private)
    assert "no such approval" in (await run("approve", news["id"], "--key", key, code=1)).stderr
