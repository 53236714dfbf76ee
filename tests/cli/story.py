"""A story as the API tells it: all three origins, a use, an unused credential, a refusal, a mark."""

from collections.abc import Mapping, Sequence
from typing import Any

from stepwrit_broker.flows.explain import explain
from stepwrit_broker.ports import LoggedEntry

TXN = "txn_100" + "A" * 26
HOME = "spiffe://prod.example"
REFUSED_REF = "REF5SED000"
T0 = 1_760_000_000.0
VERSIONS = {"policy": 3, "registry": 7, "limits": 2, "bundles": 1}


def _entry(seq: int, after: float, kind: str, ref: str, **facts: object) -> LoggedEntry:
    return LoggedEntry(
        seq=seq, at=T0 + after, kind=kind, txn=TXN, ref=ref, tenant="default", facts={"v": 1, **facts}
    )


def _step(
    name: str, parent: str | None, origin: str, tool: str | None, impact: str | None, who: str, by: str
) -> dict[str, object]:
    return {
        "step": f"stp_{name}",
        "parent": parent,
        "origin": origin,
        "tool": tool,
        "impact": impact,
        "initiator": f"{HOME}/{who}",
        "performer": f"{HOME}/{by}",
        "decision": f"d-{name}",
        "deferred": False,
        "influence": None,
    }


ENTRIES: Sequence[LoggedEntry] = (
    _entry(
        0,
        0.0,
        "intent.opened",
        "R00T000000",
        **_step("root", None, "human", None, None, "agent/chat", "agent/chat"),
        proof="bound",
        ceiling={"tools": ["ledger/*"], "impact": "high"},
    ),
    _entry(
        1,
        0.1,
        "step.opened",
        "M0DE100000",
        **_step("model", "stp_root", "model", "ledger/transfer", "high", "agent/chat", "ns/pay/*"),
    ),
    _entry(
        2, 0.2, "step.accepted", "M0DE100000", step="stp_model", performer=f"{HOME}/ns/pay/ledger-1", round=1
    ),
    _entry(
        3,
        0.3,
        "grant.issued",
        "GRANT00000",
        step="stp_model",
        grant="grt_1",
        audience="https://bank.example",
        method="POST",
        decision="d-grant",
    ),
    _entry(
        4,
        0.35,
        "grant.redeemed",
        "GRANT00000",
        step="stp_model",
        grant="grt_1",
        audience="https://bank.example",
        redeemer=f"{HOME}/bank",
    ),
    _entry(
        5,
        0.4,
        "grant.issued",
        "GRANT10000",
        step="stp_model",
        grant="grt_2",
        audience="https://bank.example",
        method="GET",
    ),
    _entry(
        6,
        0.5,
        "refused",
        REFUSED_REF,
        step="stp_model",
        verb="redeem",
        code="replay",
        reason="the credential was used before, by another",
        rule="replay_foreign",
        caller="spiffe://partner.example/thief",
        tool="ledger/transfer",
    ),
    _entry(
        7,
        0.6,
        "step.opened",
        "SERVER0000",
        **_step("server", "stp_model", "server", "audit/note", "low", "ns/pay/ledger-1", "audit"),
    ),
    _entry(
        8,
        0.65,
        "grant.self",
        "SERVER0000",
        step="stp_server",
        grant="grt_3",
        audience=f"{HOME}/audit",
        performer=f"{HOME}/audit",
    ),
    _entry(9, 0.7, "step.closed", "C105ED0000", step="stp_server", outcome="done", revoked=0, grants=[]),
    _entry(
        10, 0.8, "step.closed", "C105ED1000", step="stp_model", outcome="done", revoked=1, grants=["grt_2"]
    ),
    _entry(
        11,
        0.9,
        "mark.set",
        "MARK000000",
        verb="revoke",
        target=f"txn:{TXN}",
        by="uid 0",
        reason="incident 31",
    ),
)

DECISIONS: Mapping[str, Mapping[str, Any]] = {
    "d-root": {
        "verdict": "permit",
        "policies": ["start-by-person"],
        "versions": VERSIONS,
        "purpose": "pay invoice 42",
        "requester": {"issuer": "https://idp.example", "subject": "alice"},
    },
    "d-model": {"verdict": "permit", "policies": ["registered-tools"], "versions": VERSIONS},
    "d-grant": {"verdict": "permit", "policies": ["registered-tools", "bank-hours"], "versions": VERSIONS},
}


class Books:
    """A LedgerView over a list."""

    def __init__(self, entries: Sequence[LoggedEntry], decisions: Mapping[str, Mapping[str, Any]]) -> None:
        self._entries, self._decisions = entries, decisions

    def by_ref(self, ref: str, tenant: str | None) -> Sequence[LoggedEntry]:
        return [each for each in self._entries if each.ref == ref]

    def of_txn(self, txn: str) -> Sequence[LoggedEntry]:
        return [each for each in self._entries if each.txn == txn]

    def tail(self, after: int, limit: int, kinds: Sequence[str], tenant: str | None) -> Sequence[LoggedEntry]:
        return [each for each in self._entries if each.seq > after][:limit]

    def decision(self, digest: str) -> Mapping[str, object] | None:
        return self._decisions.get(digest)

    def head(self) -> Mapping[str, object]:
        return {"size": len(self._entries)}

    def inclusion(self, seq: int) -> Mapping[str, object]:
        raise NotImplementedError


def story(name: str = TXN, entries: Sequence[LoggedEntry] = ENTRIES) -> dict[str, Any]:
    return explain(Books(entries, DECISIONS), name, None)
