"""`docs/reference/fault-table.md`: how often each fault was injected, by what means, and what was lost."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version

from tests.faults.harness import DOUBLE, Outcome

MEANING = {
    "kill_broker": "a broker is killed, and started again",
    "pause_broker": "a broker stands still, and goes on",
    "clock_jump": "a broker's clock jumps, and comes back",
    "cut": "callers lose a broker",
    "half_open": "callers' connections stand, nothing moves",
    "delay": "what callers and a broker say comes late",
    "drop_replies": "what callers ask lands, the answer is lost",
    "full_disk": "a broker's disk is full",
    "slow_fsync": "a broker's syncs are slow",
    "failed_fsync": "a broker's syncs fail",
    "kill_redis": "a Redis is killed",
    "pause_redis": "a Redis stands still: long enough, and Sentinel fails over",
    "fail_over": "Sentinel is told to fail over",
    "kill_sentinel": "a Sentinel is killed",
    "kill_witness": "the witness is killed",
    "part_redis": "a Redis is parted from the other and the Sentinels: two primaries",
    "lost_replies_of_redis": "scripts land in Redis unseen",
    "full_disk_of_redis": "a Redis' disk is full",
    "kill_postgres": "PostgreSQL is killed",
    "pause_postgres": "PostgreSQL stands still",
    "part_postgres": "a broker loses PostgreSQL",
    "lost_replies_of_postgres": "a broker's commits land in PostgreSQL unseen",
    "full_disk_of_postgres": "PostgreSQL's disk is full",
    "slow_fsync_of_postgres": "PostgreSQL's syncs are slow",
    "failed_fsync_of_postgres": "PostgreSQL's syncs fail",
}
HEAD = """\
# What was broken, and what was lost

<!-- written by `python -m tests.faults --table FILE`; how to run it: ../how-to/run-the-fault-harness.md -->
"""
VIOLATIONS = {
    "spent twice": DOUBLE,
    "effects without an entry": ("unrecorded_effect", "unrecorded_use"),
    "confirmed, and lost": ("lost", "lost_mark", "forgotten_use"),
    "refusals without their type": ("untyped", "cut_without_cause", "two_answers"),
    "credentials that never ended": ("unended",),
    "contradictions of the log's tree": ("tree",),
    "more issued than the limits allow": ("over_rate", "over_outstanding", "over_transaction"),
    "begun after an acknowledged revocation": ("after_revocation",),
}


def table(outcome: Outcome, topology: str, seed: int, callers: int) -> str:
    """The whole page."""
    kinds = Counter(finding.kind for finding in outcome.findings)
    faults = Counter(fault.kind for fault in outcome.run.faults)
    how = {fault.kind: fault.how for fault in outcome.run.faults}
    rows = [f"| {MEANING[kind]} | {count} | {how[kind]} |" for kind, count in sorted(faults.items())]
    lost = [f"| {what} | {sum(kinds[kind] for kind in of)} |" for what, of in VIOLATIONS.items()]
    parts = [
        HEAD, _run(outcome, topology, seed, callers), "## What was lost\n", "| | |\n|---|---|", *lost,
        "\n## What was broken\n", "| fault | times | by what means |\n|---|---|---|", *rows,
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _run(outcome: Outcome, topology: str, seed: int, callers: int) -> str:
    said = outcome.numbers(seed)
    day = datetime.now(UTC).date().isoformat()
    return (
        f"{day}, seed {seed}, topology `{topology}`, {callers} callers, {said['seconds']} s in all,"
        f" on {os.cpu_count()} cores that others used too.\n{_versions()}.\n\n"
        f"{said['exchanges']} requests, of which {said['cut']} were cut; {said['redemptions_tried']} tries to"
        f" redeem, {said['redeemed']} go-aheads, {said['effects']} effects at the target,"
        f" {said['replays_refused']} replays refused;\n{said['revocations']} revocations, {said['entries']}"
        f" entries in the ledger, {said['checkpoints']} checkpoints seen. {said['faults']} faults.\n"
    )


def _versions() -> str:
    redis = _said("redis-server", "--version").split(" v=")[-1].split()[0]
    postgres = _said("postgres", "--version").split()[2]
    named = {"Stepwrit": version("stepwrit"), "Python": platform.python_version(), "Redis": redis}
    return ", ".join(f"{name} {number}" for name, number in named.items()) + f", PostgreSQL {postgres}"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return " v=? ? ?"
