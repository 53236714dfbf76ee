"""What the operator set, as versions: a file or command is a new version, in force at once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from stepwrit_broker.core import ids
from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.core.versions import StoredVersion, VersionKind, Versions
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.flows.shadow import Shadow, Watched
from stepwrit_broker.flows.signalling import BY_SIGNAL
from stepwrit_broker.ports import Clock, Entropy, Evidence, InForce, PolicyEngine, Store, VersionCommand

KINDS: tuple[VersionKind, ...] = ("registry", "limits", "policy")
RUN_TIME = "run-time"
REMOVED_BY = "registry"  # marks that the registry set it also lifts; never an operator's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a new version changes: lines for the ledger, targets to mark, targets whose mark is lifted.

    impact: what was known of it before it was put in force.
    """

    lines: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    impact: Mapping[str, object] | None = None


class Documents(Protocol):
    """Reads and compiles the operator's documents. Every failure is Malformed with all its lines."""

    def read(self, kind: VersionKind, text: str, name: str) -> tuple[str, str]:
        """The canonical document and its digest."""
        ...

    def registry(self, doc: str, number: int) -> Registry:
        """Compile a registry."""
        ...

    def limits(self, doc: str, number: int, by: str) -> Limits:
        """Compile limits."""
        ...

    def policy(self, doc: str, number: int) -> PolicyEngine:
        """Compile a policy set."""
        ...

    async def prove(self, compiled: object) -> None:
        """Ask of what was compiled here what only its engine can say. Raises Malformed, Unavailable."""
        ...

    def difference(self, kind: VersionKind, old: str | None, new: str) -> Change:
        """What changes between two documents."""
        ...


class Gate(Protocol):
    """Asked before a policy is put in force."""

    def __call__(
        self, digest: str, current: StoredVersion | None, *, accepts: bool
    ) -> Mapping[str, object] | None:
        """What the record of the activation says of its impact. Raises Conflict when it may not be."""
        ...


class Live:
    """The Settings port: one coherent snapshot, swapped as a whole."""

    def __init__(
        self,
        *,
        store: Store,
        documents: Documents,
        clock: Clock,
        entropy: Entropy,
        bundles: Callable[[], int],
        use: Callable[[Limits], None],
    ) -> None:
        self._store, self._documents, self._clock, self._entropy = store, documents, clock, entropy
        self._bundles, self._use = bundles, use
        self._registry: Registry | None = None
        self._limits: Limits | None = None
        self._policy: PolicyEngine | None = None
        self._known: InForce | None = None  # the snapshot, until something of it changes
        self._shadow: Shadow | None = None
        self.gate: Gate | None = None
        self._turn = asyncio.Lock()  # one change at a time: what is compiled is what is stored

    def now_in_force(self) -> InForce:
        """Raises Unavailable naming what is missing: empty registry, limits or policy refuse."""
        bundles, known = self._bundles(), self._known
        if known is not None and known.versions.bundles == bundles:
            return known
        registry, limits, policy = self._registry, self._limits, self._policy
        if registry is None or limits is None or policy is None:
            missing = [
                kind for kind, each in zip(KINDS, (registry, limits, policy), strict=True) if each is None
            ]
            raise Unavailable(
                "unavailable",
                f"no {' and no '.join(missing)} in force: nothing is granted",
                rule="settings",
                who_can_change_it="the operator (stepwrit init, stepwrit apply)",
            )
        versions = Versions(
            policy=policy.version, registry=registry.version, limits=limits.version, bundles=bundles
        )
        heard = policy if self._shadow is None else Watched(policy, self._shadow)
        self._known = InForce(registry=registry, limits=limits, policy=heard, versions=versions)
        return self._known

    def watch(self, shadow: Shadow | None) -> None:
        """From now on this shadow hears of every decision of the live policy; None: nobody does."""
        self._shadow, self._known = shadow, None

    async def load(self) -> None:
        """Compile what the store has in force and we have not: at start, and after a reply that was lost."""
        async with self._turn:
            for kind in KINDS:
                self._catch_up(kind, await self._store.version(kind))

    def _catch_up(self, kind: VersionKind, stored: StoredVersion | None) -> None:
        """Another broker may have put it in force: it may even have applied this very file."""
        if stored is not None and stored.number != self._number(kind):
            self._swap(stored)

    def _number(self, kind: VersionKind) -> int:
        compiled = {"registry": self._registry, "limits": self._limits, "policy": self._policy}[kind]
        return 0 if compiled is None else compiled.version

    async def apply(
        self,
        kind: VersionKind,
        text: str,
        *,
        source: str,
        by: Operator,
        reason: str,
        accepts_impact: bool = False,
    ) -> StoredVersion | None:
        """A new version of a document, checked whole before anything changes; None when nothing is new.

        A file that was applied before, unchanged since, leaves a later run-time version in force.
        accepts_impact: a policy, whatever it may change. Raises Malformed (every faulty line), Conflict
        (someone else was first; the gate), Unavailable.
        """
        doc, digest = self._documents.read(kind, text, source)
        async with self._turn:
            current = await self._store.version(kind)
            if await self._seen(kind, digest, source, current):
                self._catch_up(kind, current)
                return None
            impact = None
            if kind == "policy" and self.gate is not None:
                impact = self.gate(digest, current, accepts=accepts_impact)
            return await self._replace(kind, doc, digest, source, current, by, reason, impact)

    async def _replace(
        self,
        kind: VersionKind,
        doc: str,
        digest: str,
        source: str,
        current: StoredVersion | None,
        by: Operator,
        reason: str,
        impact: Mapping[str, object] | None = None,
    ) -> StoredVersion:
        """Compile first: what does not compile is refused before it is stored."""
        compiled = self._compile(kind, doc, 1 if current is None else current.number + 1, by.name)
        await self._documents.prove(compiled)
        if isinstance(compiled, Limits):
            self._use(compiled)  # the store must know them before they are in force
        change = self._documents.difference(kind, None if current is None else current.doc, doc)
        change = replace(change, impact=impact)
        command = self._command(kind, doc, digest, source, by, reason, current, change)
        stored = await self._store.apply(command)
        self._swap(stored)
        return stored

    async def _seen(self, kind: VersionKind, digest: str, source: str, current: StoredVersion | None) -> bool:
        if current is None:
            return False
        if source == RUN_TIME:
            return current.digest == digest
        of_file = [each for each in await self._store.history(kind) if each.source == source]
        return bool(of_file) and of_file[-1].digest == digest

    def _command(
        self,
        kind: VersionKind,
        doc: str,
        digest: str,
        source: str,
        by: Operator,
        reason: str,
        current: StoredVersion | None,
        change: Change,
    ) -> VersionCommand:
        now, ref = self._clock.now(), ids.make_ref(self._entropy.bytes(ids.REF_BYTES))
        standing = self._store.marks()
        marks = tuple(
            Mark(
                target=target,
                verb="freeze",
                reason=f"removed from the {kind}",
                by=REMOVED_BY,
                at=now,
                ref=ref,
            )
            for target in change.removed
            if _is_weak(standing.get(target))
        )
        lifts = tuple(
            target
            for target, mark in standing.items()
            if mark.by == REMOVED_BY and any(_is_back(target, each) for each in change.restored)
        )
        impact = {} if change.impact is None else {"impact": change.impact}
        facts: Mapping[str, object] = {"changes": list(change.lines), "source": source, **impact}
        return VersionCommand(
            kind=kind,
            expected=0 if current is None else current.number,
            digest=digest,
            source=source,
            doc=doc,
            by=by.name,
            reason=reason,
            ref=ref,
            marks=marks,
            lifts=lifts,
            evidence=Evidence(facts=facts),
            now=now,
        )

    async def undo(self, kind: VersionKind, to: int | None, *, by: Operator, reason: str) -> StoredVersion:
        """An earlier version's document in force again, as a new version. `to`: None is the one before.

        Raises Refused(`not_found`), Conflict, Unavailable.
        """
        history = list(await self._store.history(kind))
        if len(history) < 2 and to is None:
            raise Refused("not_found", f"there is no earlier version of the {kind}")
        wanted = history[-2].number if to is None else to
        old = next((each for each in history if each.number == wanted), None)
        if old is None:
            raise Refused("not_found", f"there is no version {wanted} of the {kind}")
        return await self.put(kind, old.doc, old.digest, by=by, reason=reason)

    async def put(
        self, kind: VersionKind, doc: str, digest: str, *, by: Operator, reason: str
    ) -> StoredVersion:
        """A canonical document as a run-time version."""
        async with self._turn:
            current = await self._store.version(kind)
            return await self._replace(kind, doc, digest, RUN_TIME, current, by, reason)

    def _compile(self, kind: VersionKind, doc: str, number: int, by: str) -> Registry | Limits | PolicyEngine:
        if kind == "registry":
            return self._documents.registry(doc, number)
        if kind == "limits":
            return self._documents.limits(doc, number, by)
        return self._documents.policy(doc, number)

    def _swap(self, stored: StoredVersion) -> None:
        compiled = self._compile(stored.kind, stored.doc, stored.number, stored.by)
        self._known = None
        if isinstance(compiled, Registry):
            self._registry = compiled
        elif isinstance(compiled, Limits):
            self._limits = compiled
            self._use(compiled)
        else:
            self._policy = compiled


def _is_weak(standing: Mark | None) -> bool:
    """Whether it could be gone while the document still says no: an identity provider lifts its own."""
    return standing is None or (standing.verb == "freeze" and standing.by.startswith(BY_SIGNAL))


def _is_back(target: str, restored: str) -> bool:
    """A mark on what is registered again, or on a pattern that covers it."""
    return target == restored or (target.endswith("/*") and restored.startswith(target[:-1]))
