"""The story, told on a terminal or as one JSON object; non-zero when anything is not as told."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import structlog
from mcp.client.client import Client

from stepwrit.agent import Intent, bound_nonce
from stepwrit.wire import META_REFUSAL, CeilingSpec
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.demo import attacks
from stepwrit_broker.dev.demo.approver import Approver
from stepwrit_broker.dev.demo.attacks import Refused
from stepwrit_broker.dev.demo.books import Books, check_offline
from stepwrit_broker.dev.demo.host import CAN, Host
from stepwrit_broker.dev.demo.stage import Stage
from stepwrit_broker.dev.demo.tell import Teller, Tree

TOOLS = ("archive/*", "audit/*", "ledger/*")
ALICE = "alice@example.com"
PURPOSE = "pay invoice 42 and reconcile November"


@dataclass(slots=True)
class Outcome:
    """What happened, step by step; `wrong` is what was not as told."""

    refused: Counter[str] = field(default_factory=Counter)
    refs: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    job: dict[str, str] = field(default_factory=dict)

    def expect(self, what: str, code: str, got: Refused | None) -> None:
        """One refusal, as told or not."""
        if got is None or got.code != code:
            self.wrong.append(f"{what}: expected {code}, got {got.code if got else 'no refusal'}")
            return
        if got.ref:
            self.refs[what] = got.ref


async def play(folder: Path, teller: Teller, *, spire: bool = False) -> dict[str, Any]:
    """Play it on a stage under `folder`; `spire`: on real SPIRE processes."""
    outcome = Outcome()
    async with Stage(folder, spire=spire) as stage:
        books = Books(stage)
        teller.stage(stage)
        async with stage.agent() as agent:
            exp = int(time.time()) + 900
            nonce = bound_nonce(await agent.ready(), CeilingSpec(tools=TOOLS), PURPOSE, exp)
            id_token = stage.dev.issuer.mint(ALICE, nonce=nonce)
            async with agent.intent(id_token, purpose=PURPOSE, tools=TOOLS, exp=exp) as intent:
                teller.intent(intent)
                outcome.refs["intent"] = intent.ref
                await _work(stage, intent, books, teller, outcome)
                await _attack(stage, intent, teller, outcome)
                txn = intent.txn
        story = await books.explain(txn)
        teller.lineage(story)
        teller.explain(
            await books.explain(outcome.refs.get("policy", outcome.refs["intent"])),
            outcome.refs.get("policy"),
        )
        counts = await books.counts(outcome)
    counts["ledger"] = check_offline(folder)
    teller.ledger(counts["ledger"])
    if not counts["ledger"]["verified"]:
        outcome.wrong.append("the ledger did not verify")
    outcome.wrong.extend(_miscounted(counts))
    return {
        "identity": "spire" if spire else "development",
        **counts,
        "steps": _origins(story),
        "job": outcome.job,
        "refs": outcome.refs,
        "as_told": not outcome.wrong,
        "wrong": outcome.wrong,
    }


def _miscounted(counts: dict[str, Any]) -> list[str]:
    wrong = [f"refused.{name} is 0" for name, count in counts["refused"].items() if count < 1]
    if not 0 < counts["redeemed"] <= counts["issued"]:
        wrong.append(f"redeemed {counts['redeemed']} of {counts['issued']} issued")
    if counts["revoked"] < counts["redeemed"]:
        wrong.append("a credential outlived its step")
    return wrong


def _origins(story: Mapping[str, Any]) -> dict[str, int]:
    """How many steps of each origin the ledger has, the intent among them."""
    found: Counter[str] = Counter()
    left = list(story["steps"])
    while left:
        step = left.pop()
        found[str(step["origin"])] += 1
        left += step["children"]
    return dict(found)


async def _work(stage: Stage, intent: Intent, books: Books, teller: Teller, outcome: Outcome) -> None:
    """The good path: the model's step, then what the server starts by itself."""
    host = Host(stage)
    host.intent = intent
    ledger = stage.mcp("ledger")
    async with Client(ledger, sampling_callback=host.sample, sampling_capabilities=CAN) as client:
        intent.guard(client, server="ledger")
        paid = await client.call_tool("pay_invoice", {"invoice": 42, "cents": 500})
        teller.paid(_text(paid))
        if paid.is_error:
            outcome.wrong.append(f"pay_invoice failed: {_text(paid)}")
        own = await client.call_tool("reconcile", {"month": "2026-11"})
        _own_steps(_text(own), teller, outcome)
        await _asks(client, host, teller, outcome)
        await _job(client, stage, books, teller, outcome)
        await _high(client, stage, teller, outcome)


async def _asks(client: Client, host: Host, teller: Teller, outcome: Outcome) -> None:
    """The server asks the client's model: an allowed pick, and one by which it would launder its wish."""
    told = await client.call_tool("summarise", {})
    teller.asked(host.act, host.picked, host.laundered)
    outcome.expect("ceiling", "ceiling", host.laundered)
    if told.is_error or host.act != "server" or "1 record" not in host.picked:
        outcome.wrong.append(f"the sampling went wrong: {_text(told)}")


async def _job(client: Client, stage: Stage, books: Books, teller: Teller, outcome: Outcome) -> None:
    """A job that outlives its call and its broker: a queue holds the step's id, a worker resumes it."""
    deferred = await client.call_tool("month_end", {"month": "2026-11"})
    step = _text(deferred)
    await books.remember()
    await stage.dev.restart()
    async with stage.workload("mcp-server/mallory") as mallory:
        thief = await attacks.refused(lambda: mallory.resume(step))
    outcome.expect("job", "not_found", thief)
    async with stage.workload("mcp-server/archive") as worker, worker.resumed(step) as job:
        origin, auth = job.origin, job.credential(stage.bank)
        async with httpx2.AsyncClient(auth=auth, base_url=stage.bank) as http:
            answer = await http.post("/v1/reports", json=dict(job.args))
    outcome.job = {"step": step, "origin": origin, "over": "a broker restart"}
    teller.job(step, origin, answer.text, thief)
    if answer.status_code != 200:
        outcome.wrong.append(f"the job was refused: {answer.text}")


async def _high(client: Client, stage: Stage, teller: Teller, outcome: Outcome) -> None:
    """High impact waits for Alice: she reads what the broker wrote, and signs exactly that."""
    waits = await client.call_tool("close_books", {"year": 2026})
    found = attacks.from_meta((waits.meta or {}).get(META_REFUSAL))
    teller.high(found)
    outcome.expect("authorization_pending", "authorization_pending", found)
    alice = Approver(stage, stage.folder, ALICE)
    await alice.register()
    page = str((waits.meta or {})[META_REFUSAL]["approval"]["url"])
    digest, text = await alice.read(page)
    state = await alice.sign(page, digest)
    closed = await client.call_tool("close_books", {"year": 2026})  # the same call: the same step
    teller.signed(text, _text(closed))
    if state != "given" or closed.is_error:
        outcome.wrong.append(f"what Alice signed ({state}) did not run: {_text(closed)}")


def _own_steps(text: str, teller: Teller, outcome: Outcome) -> None:
    told = json.loads(text) if text.startswith("[") else [text, text]
    teller.own_steps(told)
    if "recorded" not in told[0]:
        outcome.wrong.append(f"the low-impact server step did not go through: {told[0]}")
    if "refused: policy" not in told[1]:
        outcome.wrong.append(f"the server step of higher impact was not refused by policy: {told[1]}")
        return
    outcome.refs["policy"] = told[1].rpartition("ref ")[2].strip()


def _text(result: Any) -> str:
    return str(result.content[0].text) if result.content else ""


async def _attack(stage: Stage, intent: Intent, teller: Teller, outcome: Outcome) -> None:
    async with stage.workload("mcp-server/ledger") as ledger:
        held = await attacks.hold(stage, intent, ledger)
        got = await attacks.other_workload(stage, held)
        _tell(teller, outcome, "not_found", "another server asks for this step's credential", got)
        thief = await attacks.stolen(stage, held)
        _tell(
            teller,
            outcome,
            "wrong_workload",
            "another server presents a stolen credential with its own key",
            thief,
        )
        fine, again = await attacks.replay(held, ledger)
        if fine is not None:
            outcome.wrong.append(f"the right use was refused: {fine.code}")
        _tell(teller, outcome, "replay", "the same credential a second time", again)
        claimed = await attacks.claims_to_be_model(held, ledger)
        _tell(teller, outcome, "origin_claimed", "a server says that the model started its step", claimed)
        await ledger.close_step(held.step, "done")
    below = await attacks.under_foreign_step(stage, intent)
    _tell(teller, outcome, "origin_claimed", "a server opens a step below the agent's", below)
    changed = await attacks.changed_argument(stage, intent)
    _tell(teller, outcome, "arguments_changed", "1 cent in the step, 100,000 in the call", changed)
    nobody = await attacks.unattested(stage)
    _tell(teller, outcome, "unattested", "a caller without an SVID", nobody)
    outcome.refused["unattested"] += nobody is not None


def _tell(teller: Teller, outcome: Outcome, code: str, what: str, got: Refused | None) -> None:
    outcome.expect(code if code not in outcome.refs else f"{code}_2", code, got)
    teller.refused(what, got)


def main(*, tree: Tree, as_json: bool = False, spire: bool = False) -> int:
    """Play the story in a temporary folder. 0 when everything was as told."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="stepwrit-demo-") as folder:
        warnings.simplefilter("ignore", DevelopmentModeWarning)  # the story's first line says it
        teller = Teller(quiet=as_json, tree=tree)
        teller.opening(spire=spire)
        try:
            result = asyncio.run(play(Path(folder), teller, spire=spire))
        except Exception as error:  # noqa: BLE001  whatever broke, the demo says so and fails
            print(f"the demo broke: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
            return 1
    if as_json:
        print(json.dumps(result, indent=2))  # noqa: T201
    teller.end(result)
    return 0 if result["as_told"] else 1
