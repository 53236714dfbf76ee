"""What really happened, by the broker's own books: its admin API, its metrics, its ledger on disk."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from stepwrit_broker.dev.demo.stage import Stage
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.keys import load
from stepwrit_broker.ledger.verify import verify

if TYPE_CHECKING:
    from stepwrit_broker.dev.demo.run import Outcome

CODES = ("replay", "arguments_changed", "wrong_workload", "origin_claimed", "policy", "ceiling")
METRICS = {
    "issued": "stepwrit_credentials_issued_total",
    "redeemed": "stepwrit_credentials_redeemed_total",
    "revoked": "stepwrit_credentials_ended_total",
}


class Books:
    """Reads them while the stage stands."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before: Counter[str] = Counter()  # by the metrics of brokers that have stopped

    async def explain(self, name: str) -> dict[str, Any]:
        """`stepwrit explain NAME`, as its API answers."""
        async with self._stage.admin() as http:
            answer = await http.get(f"/v1/admin/explain/{name}")
        answer.raise_for_status()
        story: dict[str, Any] = answer.json()
        return story

    async def counts(self, outcome: Outcome) -> dict[str, Any]:
        """Issued, redeemed and ended credentials from the metrics; refusals from the ledger."""
        async with self._stage.admin() as http:
            entries = (
                await http.get("/v1/admin/ledger/tail", params={"kinds": "refused", "limit": 1000})
            ).json()
            await http.get("/v1/admin/ledger/head")
        codes = Counter(entry["facts"]["code"] for entry in entries)
        await self.remember()
        return {
            **{name: self._before[name] for name in METRICS},
            "refused": {code: codes[code] for code in CODES} | {"unattested": outcome.refused["unattested"]},
        }

    async def remember(self) -> None:
        """Add what this broker has counted; once for each, before it stops."""
        metrics = await self._metrics()
        self._before.update({name: metrics(metric) for name, metric in METRICS.items()})

    async def _metrics(self) -> Any:
        async with httpx2.AsyncClient() as http:
            text = (await http.get(f"{self._stage.dev.broker.ops.url}/metrics")).text

        def total(name: str) -> int:
            return int(
                sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.MULTILINE))
            )

        return total


def check_offline(folder: Path) -> dict[str, Any]:
    """Verify the database file with nothing but the public key and the anchor; the broker is gone by now."""
    key = load(folder / "ledger.key").verifier.vkey
    anchor = AnchorFile(folder / "anchor" / "anchor.json").read()
    report = verify(folder / "store" / "stepwrit.db", key, anchor=anchor)
    return {"size": report.size, "root": report.root.hex(), "verified": report.ok, "lines": report.lines()}
