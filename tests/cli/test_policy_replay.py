"""`stepwrit policy replay`: a real store's decisions, asked of a candidate."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.flows.rig import AGENT, MAIL, Rig
from typer.testing import Result

from stepwrit_broker.core.entry import decision_digest
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.obligations import read
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Verdict
from stepwrit_broker.flows import performing
from stepwrit_broker.flows.refusals import PER_CALLER

STANCES = Path(__file__).parents[2] / "deploy" / "policies"
NO = Deny(policies=("p2",), reason="no")
STRICT = """
@id("no-payments")
@reason("payments are made by hand")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"],
        resource == Stepwrit::Tool::"mail/pay");
"""


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STANCES / "approval", tmp_path / "candidate"))


@pytest.fixture
async def recorded(tmp_path: Path) -> AsyncIterator[Rig]:
    """An intent, a model's step, its credential, a server's step."""
    rig = Rig(tmp_path / "store.db")
    step = await rig.accepted()
    await rig.credential(step)
    await rig.open(step, "files/read", who=MAIL)
    yield rig
    await rig.close()


async def say_no(rig: Rig, says: Verdict = NO, times: int = 1) -> None:
    """Steps that are refused; afterwards policy permits again."""
    root = await rig.start()
    rig.policy.says = says
    for _ in range(times):
        with pytest.raises(Refused):
            await rig.open(root)
    rig.policy.says = Permit(policies=("p1",))


async def ask(cli: Cli, rig: Rig, candidate: Path, *more: object) -> Result:
    given = ("policy", "replay", "--candidate", candidate, "--db", rig.path, *more)
    return await asyncio.to_thread(cli, *given, env={"COLUMNS": "240"})


async def test_a_candidate_that_says_the_same_changes_nothing(cli: Cli, recorded: Rig, candidate: Path):
    result = await ask(cli, recorded, candidate, "--exit-code")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "4 decisions asked again: 4 the same, 0 otherwise" in result.stdout
    assert "not asked again" not in result.stdout


async def test_a_stricter_one_tells_who_would_have_been_refused_where(
    cli: Cli, recorded: Rig, candidate: Path
):
    (candidate / "60-strict.cedar").write_text(STRICT)
    result = await ask(cli, recorded, candidate, "--exit-code")
    assert result.exit_code == 1
    assert "permit → deny" in result.stdout
    assert "4 decisions asked again: 2 the same, 2 otherwise" in result.stdout
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert {(each["asking"], each["tool"], each["count"]) for each in told["changes"]} == {
        ("open_step", "mail/pay", 1),
        ("issue_credential", "mail/pay", 1),
    }
    (credential,) = [each for each in told["changes"] if each["asking"] == "issue_credential"]
    assert (credential["who"], credential["policies"]) == (MAIL, ["no-payments"])
    assert credential["says"] == "payments are made by hand"
    assert credential["last_ref"] in {each["ref"] for each in recorded.entries("grant.issued")}


async def test_what_was_refused_is_asked_again_and_may_be_newly_permitted(
    cli: Cli, recorded: Rig, candidate: Path
):
    await say_no(recorded)
    await say_no(recorded, NeedsApproval(policies=("p3",), setting="policy p3"))
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert (told["asked"], told["same"], told["not_asked_again"]) == (8, 6, {})
    assert told["effects"] == {"newly permitted": 2}
    assert told["decided_under"] == {"v0": 8}
    assert told["tools"] == {"mail/pay": {"newly permitted": 2}}
    assert told["initiators"] == {AGENT: {"newly permitted": 2}}
    assert {(each["was"], each["now"], each["who"]) for each in told["changes"]} == {
        ("deny", "permit", AGENT),
        ("approval", "permit", AGENT),
    }
    refused, waits = recorded.entries("refused")[-1], recorded.entries("step.opened")[-1]
    assert {each["last_ref"] for each in told["changes"]} == {refused["ref"], waits["ref"]}
    shown = await ask(cli, recorded, candidate)
    assert "deny → permit" in shown.stdout
    assert "2 newly permitted" in shown.stdout


async def test_a_refused_intent_is_asked_again(cli: Cli, recorded: Rig, candidate: Path):
    recorded.policy.says = NO
    with pytest.raises(Refused):
        await recorded.start()
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["tools"] == {"(an intent)": {"newly permitted": 1}}
    assert (told["changes"][0]["asking"], told["changes"][0]["tool"]) == ("start_intent", None)


async def test_a_bearers_accept_is_a_decision_too(cli: Cli, recorded: Rig, candidate: Path):
    ready = await recorded.open(await recorded.start(), "mail/note")
    before = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    bearer = recorded.caller(MAIL, key=False)
    bearer = replace(bearer, workload=replace(bearer.workload, attested_by="jwt"))
    arrival, step = recorded.arrival(ready), ready.record.step.id
    await performing.accept(recorded.house, bearer, step, arrival, recorded.op(), "d")
    after = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert (after["asked"] - before["asked"], after["not_asked_again"]) == (1, {})


async def test_obligations_that_change_are_told(cli: Cli, recorded: Rig, candidate: Path):
    entry = recorded.entries("grant.issued")[0]
    stated = {"name": "fan_out", "value": "3", "policy": "p1"}
    rewrite(recorded, entry, {"obligations": [stated]})
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["effects"] == {"obligations changed": 1}
    assert told["changes"][0]["demands"] == {"was": ["fan_out=3"], "now": []}
    assert "fan_out=3 → none" in (await ask(cli, recorded, candidate)).stdout


async def test_a_decision_without_its_redacted_facts_is_not_asked_again(
    cli: Cli, recorded: Rig, candidate: Path
):
    before = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    root = await recorded.start()
    recorded.policy.says = Permit(policies=("p1",), obligations=read("p1", "redact", "to"))
    await recorded.open(root)
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert (told["asked"], told["same"]) == (before["asked"] + 1, before["same"] + 1), "the intent alone"
    why = "facts were left out of the decision document, as an obligation of the policy said"
    assert told["not_asked_again"] == {why: 1}


async def test_refusals_that_were_only_counted_are_counted_here_too(cli: Cli, recorded: Rig, candidate: Path):
    await say_no(recorded, times=PER_CALLER + 7)
    await recorded.refusals.flush(recorded.clock.now())
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["effects"] == {"newly permitted": PER_CALLER}
    assert told["not_asked_again"] == {"a refusal by policy that was only counted": 7}


def rewrite(rig: Rig, entry: Mapping[str, Any], changes: Mapping[str, object]) -> None:
    """The entry's decision, changed, under the digest that it then has: as if it had been recorded so."""
    with closing(sqlite3.connect(rig.path)) as conn, conn:
        salt, doc = conn.execute(
            "SELECT salt, doc FROM decisions JOIN salts USING (txn) WHERE digest = ?", (entry["decision"],)
        ).fetchone()
        digest, raw = decision_digest(salt, {**json.loads(doc), **changes})
        conn.execute(
            "UPDATE decisions SET digest = ?, doc = ? WHERE digest = ?", (digest, raw, entry["decision"])
        )
        conn.execute(
            "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB)",
            (entry["decision"], digest),
        )


async def test_what_is_erased_or_of_another_version_is_counted_not_guessed(
    cli: Cli, recorded: Rig, candidate: Path
):
    assert json.loads((await ask(cli, recorded, candidate, "--json")).stdout)["not_asked_again"] == {}
    intent, step = recorded.entries("intent.opened")[0], recorded.entries("step.opened")[0]
    with closing(sqlite3.connect(recorded.path)) as conn, conn:
        conn.execute("DELETE FROM decisions WHERE digest = ?", (intent["decision"],))
    document = kept(recorded, step["decision"])["document"]
    rewrite(recorded, step, {"document": {**document, "v": 2}})
    grant = recorded.entries("grant.issued")[0]
    document = kept(recorded, grant["decision"])["document"]
    rewrite(recorded, grant, {"document": {name: document[name] for name in document if name != "redeemer"}})
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["asked"] == 1
    assert told["not_asked_again"] == {
        "the decision document is erased": 1,
        "the decision document is of another version": 1,
        "the decision document lacks what policy is asked with now": 1,
    }


def kept(rig: Rig, digest: str) -> dict[str, Any]:
    with closing(sqlite3.connect(rig.path)) as conn:
        row = conn.execute("SELECT doc FROM decisions WHERE digest = ?", (digest,)).fetchone()
    found: dict[str, Any] = json.loads(row[0])
    return found


async def test_a_document_that_is_not_the_entrys_is_reported_and_not_asked(
    cli: Cli, recorded: Rig, candidate: Path
):
    (candidate / "60-strict.cedar").write_text(STRICT)
    before = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert before["effects"] == {"newly refused": 2}
    digest = recorded.entries("grant.issued")[0]["decision"]
    with closing(sqlite3.connect(recorded.path)) as conn, conn:
        conn.execute(
            "UPDATE decisions SET doc = CAST(replace(CAST(doc AS TEXT), 'mail/pay', 'mail/note') AS BLOB)"
            " WHERE digest = ?",
            (digest,),
        )
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["effects"] == {"newly refused": 1}
    assert told["not_asked_again"] == {"the decision document is not the one that the entry names": 1}


async def test_without_its_salt_nothing_proves_a_document(cli: Cli, recorded: Rig, candidate: Path):
    before = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    with closing(sqlite3.connect(recorded.path)) as conn, conn:
        conn.execute("UPDATE salts SET salt = NULL")
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["asked"] == 0
    assert told["not_asked_again"] == {
        "the salt is erased: nothing proves the decision document": before["asked"]
    }


async def test_it_begins_where_it_is_told_to(cli: Cli, recorded: Rig, candidate: Path):
    everything = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    last = json.loads((await ask(cli, recorded, candidate, "--from", 3, "--json")).stdout)
    assert everything["asked"] > last["asked"] > 0
    none = json.loads(
        (await ask(cli, recorded, candidate, "--since", "2099-01-01T00:00:00Z", "--json")).stdout
    )
    assert (none["asked"], none["not_asked_again"]) == (0, {})
    wrong = await ask(cli, recorded, candidate, "--since", "yesterday")
    assert wrong.exit_code == 2
