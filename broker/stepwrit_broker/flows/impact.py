"""What a candidate policy would change, told before it is put in force; and the gate that can demand it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepwrit_broker.core.errors import Conflict
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.flows.candidates import Desk, Keeper, Wanted, version_json
from stepwrit_broker.flows.revoke import Operator

REPORTS_MAX: Final = 20
CHANGES_MAX: Final = 200
ENTRIES: Final = 100_000
SECONDS: Final = 20.0
_KEPT: Final = ("ref", "at", "by", "asked", "effects", "not_asked_again", "shadow")
Json = Mapping[str, Any]
OfShadow = Callable[[str, StoredVersion | None], Json | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """Whether a policy may be put in force blindly. valid_s: how long an impact report is recent."""

    needs_impact: bool = False
    valid_s: float = 86_400.0


class Impact:
    """Makes impact reports and keeps the latest."""

    def __init__(self, desk: Desk, *, keeper: Keeper, shadow: OfShadow, activation: Activation) -> None:
        """shadow: what a running shadow of the policy with this digest has found."""
        self._desk, self._keeper, self._shadow, self._activation = desk, keeper, shadow, activation
        self._reports: list[Json] = list(keeper.load().get("reports", ()))
        self._turn = asyncio.Lock()

    async def impact(self, wanted: Wanted, *, since: float, by: Operator) -> Json:
        """Recorded decisions asked again, and what a shadow of the same policy found: a report, on record.

        since: seconds since the epoch. Raises Malformed, Conflict, Refused, Unavailable.
        """
        if self._turn.locked():
            raise Conflict("wrong_state", "another impact report is being made: try again when it is done")
        async with self._turn:
            current, candidate = await self._desk.in_force(), await self._desk.open(wanted)
            try:
                found = await candidate.replay(
                    since=since, entries=ENTRIES, seconds=SECONDS, most=CHANGES_MAX
                )
            finally:
                await candidate.aclose()
            return await self._reported(candidate.digest, wanted.label, current, found, since, by)

    async def _reported(
        self, digest: str, label: str, current: StoredVersion | None, found: Json, since: float, by: Operator
    ) -> Json:
        now, ref = self._desk.clock.now(), self._desk.ref()
        shadow = self._shadow(digest, current)
        facts = {
            "digest": digest,
            "live": 0 if current is None else current.number,
            "by": by.name,
            "since": round(since, 3),
            "asked": found["asked"],
            "effects": found["effects"],
            "not_asked_again": sum(found["not_asked_again"].values()),
            "shadow": None if shadow is None else {name: shadow[name] for name in ("compared", "effects")},
        }
        await self._desk.say("policy.impact", ref, {**facts, "candidate": label})
        kept = {**facts, "ref": ref, "at": now}
        await self._keep_reports([*self._reports, kept][-REPORTS_MAX:])
        return {
            **kept,
            "candidate": label,
            "is_in_force": current is not None and current.digest == digest,
            "live": version_json(current),
            "valid_until": now + self._activation.valid_s,
            "needed": self._activation.needs_impact,
            "replay": found,
            "shadow": shadow,
        }

    def admitted(self, digest: str, current: StoredVersion | None, *, accepts: bool) -> Json | None:
        """What the record of an activation says of its impact; None where nobody looked and nobody had to.

        accepts: the operator puts it in force without a report. Raises Conflict(`wrong_state`).
        """
        report = next((each for each in reversed(self._reports) if each["digest"] == digest), None)
        wrong = self._wrong(report, current)
        if report is not None and wrong is None:
            return {name: report[name] for name in _KEPT}
        if accepts:
            return {"accepted": wrong}
        if current is not None and self._activation.needs_impact:
            raise Conflict(
                "wrong_state",
                f"{wrong}: make one (stepwrit policy impact), or say --accept-impact",
                rule="policy.activation_needs",
                who_can_change_it="the operator (broker.toml [policy])",
            )
        return None

    def _wrong(self, report: Json | None, current: StoredVersion | None) -> str | None:
        if report is None:
            return "there is no impact report of exactly this policy"
        if self._desk.clock.now() - report["at"] > self._activation.valid_s:
            return f"the impact report {report['ref']} of this policy is too old"
        if current is not None and current.number != report["live"]:
            return f"the impact report {report['ref']} was made while v{report['live']} was in force"
        return None

    async def _keep_reports(self, reports: list[Json]) -> None:
        await self._keeper.save({"reports": reports})
        self._reports = reports
