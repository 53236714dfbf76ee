"""`stepwrit policy replay`: a real store's decisions, asked of a candidate."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.flows.rig import MAIL, Rig
from typer.testing import Result

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.verdict import Deny, Permit

STANCES = Path(__file__).parents[2] / "deploy" / "policies"
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
    """An intent, a model's step, its credential, a server's step; one refusal by policy."""
    rig = Rig(tmp_path / "store.db")
    step = await rig.accepted()
    await rig.credential(step)
    await rig.open(step, "files/read", who=MAIL)
    rig.policy.says = Deny(policies=("p2",), reason="no")
    with pytest.raises(Refused):
        await rig.open(step, "files/read", who=MAIL)
    rig.policy.says = Permit(policies=("p1",))
    yield rig
    await rig.close()


async def ask(cli: Cli, rig: Rig, candidate: Path, *more: object) -> Result:
    given = ("policy", "replay", "--candidate", candidate, "--db", rig.path, *more)
    return await asyncio.to_thread(cli, *given, env={"COLUMNS": "240"})


async def test_a_candidate_that_says_the_same_changes_nothing(cli: Cli, recorded: Rig, candidate: Path):
    result = await ask(cli, recorded, candidate, "--exit-code")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "4 decisions asked again: 4 the same, 0 otherwise" in result.stdout
    assert "1 not asked again: a refusal by policy keeps no decision document" in result.stdout


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


async def test_what_is_erased_or_of_another_version_is_counted_not_guessed(
    cli: Cli, recorded: Rig, candidate: Path
):
    assert (json.loads((await ask(cli, recorded, candidate, "--json")).stdout)["not_asked_again"]) == {
        "a refusal by policy keeps no decision document": 1
    }
    kinds = ("intent.opened", "grant.issued", "step.opened")
    first, second, third = (recorded.entries(kind)[0]["decision"] for kind in kinds)
    with sqlite3.connect(recorded.path) as conn:
        conn.execute("DELETE FROM decisions WHERE digest = ?", (first,))
        conn.execute("UPDATE decisions SET doc = CAST('{}' AS BLOB) WHERE digest = ?", (second,))
        conn.execute(
            "UPDATE decisions SET doc = CAST(json_remove(CAST(doc AS TEXT), '$.document.redeemer') AS BLOB)"
            " WHERE digest = ?",
            (third,),
        )
    conn.close()
    told = json.loads((await ask(cli, recorded, candidate, "--json")).stdout)
    assert told["asked"] == 1
    assert told["not_asked_again"] == {
        "a refusal by policy keeps no decision document": 1,
        "the decision document is erased": 1,
        "the decision document is of another version": 1,
        "the decision document lacks what policy is asked with now": 1,
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
