"""Which settings of the two engines keep what a fleet promises (docs/explanation/fleet-promises.md). Pure.

Every go-ahead waits for PostgreSQL. So PostgreSQL's settings are about truth; Redis' own durability is about
how many callers must ask again after a fall, and is shown, not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.slices import CLOCKS_APART_S
from stepwrit_broker.store.fleet.facts import PostgresFacts, RedisFacts

OLDEST_REDIS: Final = (7, 0)
OLDEST_POSTGRES: Final = 140_000
_LOOPBACK: Final = frozenset({"localhost", "::1", "[::1]"})


class Finding(NamedTuple):
    """A setting that cannot keep the promise. value: a word; shown: with its measure. may_accept: whether an
    operator may live with it.
    """

    setting: str
    value: str
    breaks: str
    node: str
    may_accept: bool = True
    shown: str = ""

    @property
    def name(self) -> str:
        """As `accept` of `[fleet]` names it."""
        return f"{self.setting}={self.value}"

    @property
    def text(self) -> str:
        """One line that says what to do."""
        way = f'; to live with it: [fleet] accept = ["{self.name}"]' if self.may_accept else ""
        return f"{self.setting} is {self.shown or self.value} at {self.node}: {self.breaks}{way}"


class Promise(NamedTuple):
    """What a setting that stands means here."""

    setting: str
    value: str
    means: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """refused: what stands in the way of serving. accepted: what the operator lives with. unused: names in
    `accept` that nothing was found for.
    """

    refused: tuple[Finding, ...]
    accepted: tuple[Finding, ...]
    promises: tuple[Promise, ...]
    unused: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises Unavailable that names every setting, its value, what it breaks and how to accept it."""
        if self.refused:
            raise Unavailable(
                "unavailable",
                "settings that cannot keep the fleet's promise:\n" + "\n".join(x.text for x in self.refused),
                rule=", ".join(dict.fromkeys(x.name for x in self.refused)),
                who_can_change_it="the operator",
            )

    def readyz(self) -> dict[str, object]:
        """For /readyz."""
        return {
            "refused": [finding.text for finding in self.refused],
            "accepted": [f"{finding.name} ({finding.node})" for finding in self.accepted],
            "unused_accept": list(self.unused),
        }

    @property
    def metrics(self) -> Mapping[str, float]:
        """A gauge for each accepted weakness, by its name: how many servers have it."""
        names = [finding.name for finding in self.accepted]
        return {name: float(names.count(name)) for name in names}

    def facts(self) -> dict[str, object]:
        """For the ledger's entry at start."""
        return {
            "accepted": sorted(f"{finding.name} {finding.node}" for finding in self.accepted),
            "promises": sorted(f"{each.setting}={each.value} {each.node}" for each in self.promises),
        }


def stated(facts: RedisFacts, said: Sequence[str]) -> RedisFacts:
    """With what the operator says (`maxmemory-policy=noeviction`) of settings that may not be asked.

    What can be asked is believed over what is said. Raises ValueError for a name that means nothing here.
    """
    found: dict[str, str] = {}
    for each in said:
        name, _, value = each.partition("=")
        if name not in STATED or not value:
            raise ValueError(f"{each!r} is not NAME=VALUE with a NAME of {', '.join(STATED)}")
        found[name.replace("-", "_")] = value
    unread: dict[str, Any] = {name: value for name, value in found.items() if getattr(facts, name) is None}
    return replace(facts, **unread)


STATED: Final = (
    "maxmemory-policy", "appendonly", "appendfsync", "save", "min-replicas-to-write", "min-replicas-max-lag",
)  # fmt: skip


def judge(redis: Sequence[RedisFacts], postgres: PostgresFacts, accepted: Sequence[str]) -> Judged:
    """What is refused, what is lived with, and what all of it promises. redis: each primary."""
    findings = [*(each for facts in redis for each in _redis(facts)), *_postgres(postgres)]
    lived = tuple(x for x in findings if x.may_accept and x.name in accepted)
    return Judged(
        refused=tuple(x for x in findings if x not in lived),
        accepted=lived,
        promises=(*(each for facts in redis for each in _redis_promises(facts)), *_promises(postgres)),
        unused=tuple(name for name in accepted if name not in {x.name for x in lived}),
    )


def _redis(facts: RedisFacts) -> Iterator[Finding]:
    node = facts.node
    if facts.role != "master":
        yield Finding(
            "redis.role", facts.role, "a replica takes no writes and is behind", node, may_accept=False
        )
    if _version(facts.version) < OLDEST_REDIS:
        yield Finding("redis.version", facts.version, "the scripts are written for 7.0 and later", node)
    policy = facts.maxmemory_policy
    if policy != "noeviction":
        breaks = "limits, places and proofs may be forgotten before their time: limits may be over-granted"
        unread = " (CONFIG GET is not allowed: say it in redis_stated)" if policy is None else ""
        yield Finding("redis.maxmemory-policy", policy or "unknown", breaks + unread, node)
    if not facts.is_tls and not _is_local(node):
        yield Finding(
            "redis.tls", "off", "whoever is on the network reads and writes what brokers decide on", node
        )
    yield from _clock("redis.clock", facts.clock_offset_s, node)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _is_local(node: str) -> bool:
    host = node.rpartition(":")[0]
    return node.startswith("/") or host.startswith("127.") or host in _LOOPBACK


def _clock(setting: str, offset_s: float, node: str) -> Iterator[Finding]:
    if abs(offset_s) > CLOCKS_APART_S:
        breaks = f"a fleet's clocks may be {CLOCKS_APART_S:g} s apart, else work is refused here or elsewhere"
        yield Finding(setting, "off", breaks, node, may_accept=False, shown=f"{offset_s:+.2f} s off ours")


def _postgres(facts: PostgresFacts) -> Iterator[Finding]:
    node = facts.node
    for setting, value, is_wrong, breaks, may_accept in _checks(facts):
        if is_wrong:
            yield Finding(f"postgres.{setting}", value, breaks, node, may_accept)
    yield from _clock("postgres.clock", facts.clock_offset_s, node)


def _checks(facts: PostgresFacts) -> Iterator[tuple[str, str, bool, str, bool]]:
    """Setting, value, whether it is wrong, what it breaks, whether one may live with it."""
    commit, standbys = facts.synchronous_commit, bool(facts.synchronous_standby_names)
    lost = "what was acknowledged may be gone after a crash: a credential could be spent twice"
    yield "standby", "on", facts.is_standby, "a standby takes no writes", False
    yield "read_only", "on", facts.is_read_only and not facts.is_standby, "nothing could be recorded", False
    yield (
        "version",
        str(facts.version),
        facts.version < OLDEST_POSTGRES,
        "14 is the oldest that is used",
        False,
    )
    yield (
        "server_encoding",
        facts.server_encoding,
        facts.server_encoding != "UTF8",
        "texts would not be kept as they are",
        False,
    )
    yield "fsync", facts.fsync, facts.fsync == "off", lost, True
    yield (
        "full_page_writes",
        facts.full_page_writes,
        facts.full_page_writes == "off",
        "a crash in the middle of a page ruins it, unless the file system writes pages whole",
        True,
    )
    yield "synchronous_commit", commit, commit == "off", lost, True
    yield (
        "synchronous_commit",
        commit,
        commit == "local" and standbys,
        "the synchronous standby is not waited for: a fail-over loses what was acknowledged",
        True,
    )
    yield (
        "role",
        "superuser",
        facts.is_superuser,
        "the broker could rewrite the log and the server's settings; give it a role of its own",
        True,
    )
    yield (
        "tls",
        "off",
        not facts.is_tls and facts.sslmode != "local",
        "whoever is on the network reads and writes the truth",
        True,
    )
    yield (
        "tls",
        facts.sslmode,
        facts.is_tls and facts.sslmode not in ("local", "verify-full"),
        "whoever is on the network may stand in for the server: say sslmode=verify-full in fleet.postgres",
        True,
    )


def _redis_promises(facts: RedisFacts) -> Iterator[Promise]:
    node, replicas = facts.node, str(facts.replicas)
    is_kept = facts.appendonly == "yes"
    fsync = (facts.appendfsync or "unknown") if is_kept else "off"
    again = "after it falls, its restart begins a new epoch: callers ask again, nothing acknowledged is lost"
    yield Promise("redis.appendfsync", fsync, again, node)
    alone = "without a replica the fleet waits for its restart" if facts.replicas == 0 else ""
    yield Promise("redis.replicas", replicas, alone or "a fail-over begins a new epoch", node)
    if facts.min_replicas_to_write is not None:
        cut = "a primary that is cut off from its replicas goes on; the truth takes nothing of it"
        stops = "a primary that is cut off from its replicas stops by itself"
        means = cut if facts.min_replicas_to_write == "0" else stops
        yield Promise("redis.min-replicas-to-write", facts.min_replicas_to_write, means, node)
    if facts.maxmemory == 0:
        yield Promise("redis.maxmemory", "0", "unbounded: the machine's end of memory is its end", node)
    if facts.sentinels is not None and facts.quorum is not None:
        yield _sentinel_promise(facts.sentinels, facts.quorum, node)


def _sentinel_promise(sentinels: int, quorum: int, node: str) -> Promise:
    few = sentinels < 3 or quorum <= sentinels // 2
    means = (
        "fewer than three, or no majority: a fail-over may not come, or come needlessly" if few else "enough"
    )
    return Promise("redis.sentinel", f"{quorum} of {sentinels}", means, node)


def _promises(facts: PostgresFacts) -> Iterator[Promise]:
    node = facts.node
    yield Promise("postgres.synchronous_commit", facts.synchronous_commit, "on disk before a go-ahead", node)
    names, count = facts.synchronous_standby_names, facts.sync_standbys
    if not names:
        means = "one server's disk is the truth; fail over to a standby only if it has all of it"
    elif count == 0:
        means = "no synchronous standby streams now: commits wait for one"
    else:
        means = "a fail-over to a synchronous standby loses nothing that was acknowledged"
    yield Promise("postgres.synchronous_standby_names", names or "none", means, node)
    checks = "a page that rots on disk is found" if facts.data_checksums == "on" else "a page may rot unseen"
    yield Promise("postgres.data_checksums", facts.data_checksums, checks, node)
