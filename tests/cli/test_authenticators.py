"""`stepwrit authenticators list|invite|approve|retire`, and the routes behind them, on a real broker."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import pytest
import pytest_asyncio
from tests.cli.conftest import free_port
from tests.fakes.approver import ApprovalStage
from tests.fakes.passkey import SoftPasskey
from typer.testing import CliRunner, Result

from stepwrit_broker.approvals.webauthn import WebAuthn
from stepwrit_broker.cli.app import app
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.flows import enrolling, passkeys

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROUTE = "/v1/admin/authenticators"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[ApprovalStage]:
    async with ApprovalStage(issuer=f"https://localhost:{free_port()}") as made:
        yield made


Run = Callable[..., Any]


@pytest.fixture
def run(stage: ApprovalStage) -> Run:
    """A command in another thread, so that the broker here can answer it."""

    async def running(*args: object, code: int = 0, stdin: str | None = None) -> Result:
        given = ["authenticators", *map(str, args), "--admin", str(stage.folder / "admin.sock")]
        result: Result = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, given, input=stdin))
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return running


def rp(stage: ApprovalStage) -> WebAuthn:
    return WebAuthn(stage.issuer_url)


async def proposed(stage: ApprovalStage, url: str) -> tuple[SoftPasskey, Authenticator]:
    """What whoever has the link does at the page."""
    key = SoftPasskey(origin=rp(stage).origin, rp_id=rp(stage).rp_id)
    house, sealed = stage.broker.house, url.partition("#")[2]
    opened = await enrolling.open_invitation(house, rp(stage), sealed)
    said = key.make(dict(opened.options))
    return key, await enrolling.propose(house, rp(stage), sealed, opened.nonce, said, "new phone")


async def signs_in(stage: ApprovalStage, key: SoftPasskey) -> Authenticator:
    nonce, options = passkeys.begin_sign_in(stage.broker.house, rp(stage))
    return await passkeys.sign_in(stage.broker.house, rp(stage), nonce, key.sign(dict(options)))


async def test_invite_propose_approve_by_fingerprint_retire(stage: ApprovalStage, run: Run) -> None:
    invited = (await run("invite", "--person", "alice", "--reason", "new phone")).stdout
    url = invited.splitlines()[0]
    assert url.startswith(f"{stage.issuer_url}/authenticators/new#")
    assert "for alice, once, until 20" in invited
    key, made = await proposed(stage, url)
    listed = (await run("list")).stdout
    assert "proposed" in listed
    assert made.fingerprint in listed
    wrong = await run("approve", made.id, "-f", "aaaaa-bbbbb-ccccc-ddddd-eeee", "-r", "x", code=1)
    assert "this is not its fingerprint" in wrong.stderr
    heard = made.fingerprint.upper().replace("-", " ")
    assert (
        (await run("approve", made.id, "-r", "by phone", stdin=f"{heard}\n"))
        .stdout.rstrip()
        .endswith(f"active: {made.id}   of alice")
    )
    assert (await signs_in(stage, key)).id == made.id
    assert "retired" in (await run("retire", made.id, "--reason", "lost")).stdout
    assert made.id not in (await run("list")).stdout
    assert made.id in (await run("list", "--state", "all")).stdout
    again = await run("approve", made.id, "-f", made.fingerprint, "-r", "oh", code=1)
    assert "no such authenticator" in again.stderr


async def test_json_is_the_answer_of_the_api(stage: ApprovalStage, run: Run) -> None:
    issuer = stage.issuer.url
    invited = json.loads(
        (await run("invite", "--issuer", issuer, "--subject", "zoe", "-r", "first", "--json")).stdout
    )
    assert (invited["issuer"], invited["subject"], invited["person"]) == (issuer, "zoe", None)
    _, made = await proposed(stage, invited["url"])
    found = json.loads((await run("list", "--state", "proposed", "--json")).stdout)
    mine = next(each for each in found if each["id"] == made.id)
    assert (mine["label"], mine["state"], mine["subject"]) == ("new phone", "proposed", "zoe")
    done = json.loads((await run("approve", made.id, "-f", made.fingerprint, "-r", "seen", "--json")).stdout)
    assert (done["state"], done["decided_by"]) == ("active", "uid 0")
    assert json.loads((await run("retire", made.id, "-r", "r", "--json")).stdout)["state"] == "retired"


async def test_who_is_invited_must_be_said_and_known(stage: ApprovalStage, run: Run) -> None:
    await run("invite", "--person", "alice", "-r", "r")
    assert "person, or issuer and subject" in (await run("invite", "-r", "r", code=1)).stderr
    both = ("invite", "--person", "alice", "--subject", "alice", "-r", "r")
    assert "person, or issuer and subject" in (await run(*both, code=1)).stderr
    assert "no such person" in (await run("invite", "--person", "mallory", "-r", "r", code=1)).stderr
    stranger = ("invite", "--issuer", "https://other.example", "--subject", "a", "-r", "r")
    assert "nobody here comes from this issuer" in (await run(*stranger, code=1)).stderr


@pytest.mark.parametrize("name", ["", "aut_", "aut_../../marks", "apr_1004H6", "aut_a b"])
async def test_what_is_no_id_is_wrong_usage(stage: ApprovalStage, run: Run, name: str) -> None:
    assert "not the id" in (await run("retire", name, "--reason", "r", code=2)).stderr
    assert "no such authenticator" in (await run("retire", "aut_x", "--reason", "r", code=1)).stderr


async def test_persons_belong_to_no_tenant_so_one_tenants_operator_may_not(stage: ApprovalStage) -> None:
    (await stage.admin("GET", ROUTE)).ok()
    ops, blue, chat = await stage.actors("operator/ops", "operator/blue", "agent/chat")
    body = b'{"person": "alice", "reason": "r"}'
    for actor in (ops, blue, chat):
        for method, path in (("GET", ROUTE), ("POST", f"{ROUTE}/invitations")):
            headers = {"Content-Type": "application/json"}
            reply = await actor.send(method, path, body if method == "POST" else b"", headers)
            assert reply.status == 403, reply.raw
            assert reply.code == "wrong_workload"
    (await stage.admin("POST", f"{ROUTE}/invitations", {"person": "alice", "reason": "r"})).ok()


async def test_the_invitation_is_on_record_without_the_link(stage: ApprovalStage, run: Run) -> None:
    url = (await run("invite", "--person", "bob", "--reason", "new laptop")).stdout.splitlines()[0]
    told = [each.facts for each in stage.broker.ledger.tail(-1, 1000, ["authenticator.invited"], None)][-1]
    assert told is not None
    assert (told["by"], told["reason"]) == ("uid 0", "new laptop")
    assert url.partition("#")[2] not in json.dumps(told)
