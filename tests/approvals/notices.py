"""Notices for the tests beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepwrit_broker.core.persons import Identity
from stepwrit_broker.ports_approval import Notice

NOW = 1_800_000_000
ALICE = Identity("https://idp.example", "alice-subject")
APPROVAL = "apr_100" + "A" * 26


def notice(**changes: Any) -> Notice:
    base = Notice(
        event="asked",
        approval=APPROVAL,
        tenant="default",
        txn="txn_100" + "B" * 26,
        step="stp_100" + "C" * 26,
        tool="ledger/wipe",
        impact="high",
        initiator="spiffe://prod.example/agent/chat",
        requester=ALICE,
        to=("bob", "carol"),
        url=f"https://broker.example/approvals/{APPROVAL}",
        asked_at=float(NOW),
        expires_at=NOW + 900.0,
        ref="7Q2K9MZX4D",
    )
    return replace(base, **changes)
