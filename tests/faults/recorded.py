"""A small run that is right in everything, made by hand, for the checker's own tests to spoil."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from tests.faults.observed import Effect, Entry, Exchange, Fault, FinalState, Run, SeenCheckpoint, Terms

from stepwrit_broker.core.merkle import Frontier

T0 = 1_800_000_000.0
CHAT, LEDGER, BANK = (f"spiffe://faults.test/{path}" for path in ("agent/chat", "mcp-server/ledger", "bank"))
LIMITS = """\
version: 1
rates:
  - {name: credentials, on: credentials, per: [workload], rate: 10/s, burst: 5}
  - {name: steps, on: steps, per: [workload], rate: 10/s, burst: 5}
  - {name: intents, on: intents, per: [workload], rate: 10/s, burst: 5}
concurrency:
  - {name: outstanding, per: [workload], max: 3}
transaction: {steps: 6, depth: 3, fan_out: 4, server_steps: 2}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}
count: 3
"""


def entry(seq: int, **facts: Any) -> Entry:
    """As the ledger has it."""
    body = json.dumps({"v": 1, **facts}, sort_keys=True)
    return Entry(seq=seq, body=body, leaf=hashlib.sha256(b"\x00" + body.encode()).hexdigest())


def root_of(entries: tuple[Entry, ...], size: int) -> str:
    """The root of the first so many."""
    frontier = Frontier()
    frontier.extend(bytes.fromhex(each.leaf) for each in entries[:size])
    return frontier.root.hex()


def said(*facts: dict[str, Any]) -> tuple[Entry, ...]:
    """Entries in order."""
    return tuple(entry(seq, **each) for seq, each in enumerate(facts))


def opened(step: str, at: float, parent: str | None = "stp_root", **more: Any) -> dict[str, Any]:
    kind = "intent.opened" if parent is None else "step.opened"
    tool = None if parent is None else "ledger/transfer"
    return {"kind": kind, "at": T0 + at, "ref": f"R-{step}", "step": step, "txn": "txn_1", "parent": parent,
            "initiator": CHAT, "performer": LEDGER, "origin": "model", "tool": tool,
            "tenant": "t"} | more  # fmt: skip


def issued(grant: str, step: str, at: float, **more: Any) -> dict[str, Any]:
    return {"kind": "grant.issued", "at": T0 + at, "ref": f"R-{grant}", "grant": grant, "step": step,
            "txn": "txn_1", "performer": LEDGER, "origin": "model", "tool": "ledger/transfer", "tenant": "t",
            "audience": "https://bank.example", "epoch": "e1", "expires_at": T0 + at + 60} | more  # fmt: skip


def redeemed(grant: str, step: str, at: float) -> dict[str, Any]:
    return {"kind": "grant.redeemed", "at": T0 + at, "ref": f"R-{grant}", "grant": grant, "step": step}


def closed(step: str, at: float) -> dict[str, Any]:
    return {"kind": "step.closed", "at": T0 + at, "ref": f"R-{step}", "step": step, "outcome": "done"}


FACTS: tuple[dict[str, Any], ...] = (
    {"kind": "broker.started", "at": T0, "ref": "R-start", "epoch": "e1"},
    opened("stp_root", 1.0, None),
    opened("stp_a", 1.1),
    {"kind": "step.accepted", "at": T0 + 1.2, "ref": "R-stp_a", "step": "stp_a", "txn": "txn_1"},
    issued("grt_a", "stp_a", 1.3),
    redeemed("grt_a", "stp_a", 1.4),
    closed("stp_a", 1.6),
    opened("stp_b", 2.0),
    {"kind": "step.accepted", "at": T0 + 2.1, "ref": "R-stp_b", "step": "stp_b", "txn": "txn_1"},
    issued("grt_b", "stp_b", 2.2),
    {"kind": "mark.set", "at": T0 + 2.3, "ref": "R-mark", "target": "step:stp_b", "verb": "revoke"},
    closed("stp_b", 2.4),
    {"kind": "refused", "at": T0 + 2.6, "ref": "R-no", "code": "revoked"},
)


def ask(verb: str, sent: float, took: float = 0.05, **more: Any) -> Exchange:
    """An exchange that was answered yes, unless it is said otherwise."""
    base: dict[str, Any] = {
        "caller": "c1",
        "via": "b1",
        "op": f"{verb}@{sent}",
        "result": "ok",
        "txn": "txn_1",
    }
    return Exchange(verb=verb, sent=T0 + sent, saw=T0 + sent + took, **(base | more))


EXCHANGES: tuple[Exchange, ...] = (
    ask("intent", 1.0, step="stp_root", ref="R-stp_root"),
    ask("open", 1.1, step="stp_a", ref="R-stp_a"),
    ask("accept", 1.2, step="stp_a", ref="R-stp_a"),
    ask("credential", 1.3, step="stp_a", grant="grt_a"),
    ask("redeem", 1.4, result="cut", said="ReadTimeout", step="stp_a", grant="grt_a", op="redeem-a"),
    ask("redeem", 1.5, step="stp_a", grant="grt_a", op="redeem-a", ref="R-grt_a", via="b2"),
    ask("redeem", 1.5, result="refused", status=403, code="replay", step="stp_a", grant="grt_a", op="thief"),
    ask("close", 1.6, step="stp_a", ref="R-stp_a"),
    ask("open", 2.0, step="stp_b", ref="R-stp_b"),
    ask("accept", 2.1, step="stp_b", ref="R-stp_b"),
    ask("credential", 2.2, step="stp_b", grant="grt_b"),
    ask("revoke", 2.3, target="step:stp_b", ref="R-mark"),
    ask("redeem", 2.6, result="refused", status=403, code="revoked", step="stp_b", grant="grt_b"),
)


def clean() -> Run:
    """Two steps: one is done, its credential replayed; one is revoked before its credential is used."""
    entries = said(*FACTS)
    return Run(
        exchanges=EXCHANGES,
        effects=(Effect(at=T0 + 1.56, place="bank/1", grant="grt_a", op="redeem-a", ref="R-grt_a"),),
        faults=(Fault(kind="drop_replies", target="b1", began=T0 + 1.39, ended=T0 + 1.45, how="relay"),),
        checkpoints=tuple(
            SeenCheckpoint(
                at=T0 + size, via="b1", origin="faults.test/log", size=size, root=root_of(entries, size)
            )
            for size in (0, 1, 7, len(entries))
        ),
        entries=entries,
        state=FinalState(
            grants={"grt_a": "redeemed", "grt_b": "revoked"},
            steps={"stp_root": "accepted", "stp_a": "done", "stp_b": "revoked"},
            marks={"step:stp_b": "revoke"},
        ),
        terms=Terms(limits=LIMITS, times={"ledger/transfer": 1}, grace_s=5.0),
    )


def retold(run: Run, *facts: dict[str, Any]) -> Run:
    """The same run with another ledger, whose tree is right: the checkpoints are those of this one."""
    entries = said(*facts)
    seen = tuple(
        replace(each, size=min(each.size, len(entries)), root=root_of(entries, min(each.size, len(entries))))
        for each in run.checkpoints
    )
    return replace(run, entries=entries, checkpoints=seen)
