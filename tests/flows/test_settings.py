"""What the operator set, as versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import build
from tests.fakes.build import mark_of
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import SeededEntropy
from tests.flows.rig import FakePolicy

from stepwrit_broker.core.errors import Conflict, Malformed, Refused, Unavailable
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.core.versions import VersionKind
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.flows.settings import RUN_TIME, Change, Live
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import Evidence, MarkCommand, Operation
from stepwrit_broker.store.start import open_store

OPS = Operator(name="ops")


class FakeDocuments:
    """The Documents port: a document is words; the word `bad` does not read, `broken` does not compile."""

    def read(self, kind: VersionKind, text: str, name: str) -> tuple[str, str]:
        if "bad" in text.split():
            raise Malformed("invalid_request", f"{name}:1:1: bad")
        doc = " ".join(sorted(text.split()))
        return doc, f"digest of {doc}"

    def registry(self, doc: str, number: int) -> Registry:
        if "broken" in doc.split():
            raise Malformed("invalid_request", "broken")
        return Registry(version=number, entries=(), digest=doc)

    def limits(self, doc: str, number: int, by: str) -> Limits:
        return build.limits(number)

    def policy(self, doc: str, number: int) -> FakePolicy:
        engine = FakePolicy()
        engine.version = number
        return engine

    async def prove(self, compiled: object) -> None:
        if isinstance(compiled, Registry) and "unproved" in compiled.digest.split():
            raise Malformed("invalid_request", "unproved")

    def difference(self, kind: VersionKind, old: str | None, new: str) -> Change:
        before, after = set((old or "").split()), set(new.split())
        return Change(
            lines=tuple(sorted(before ^ after)),
            removed=tuple(f"tool:{word}" for word in sorted(before - after)),
            restored=tuple(f"tool:{word}" for word in sorted(after - before)),
        )


class Office:
    """Live settings on a real store."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.used = path, FakeClock(), list[int]()
        self.store = open_store(path, log=SqliteLog(), entropy=SeededEntropy())
        self.live = self.fresh()

    def fresh(self) -> Live:
        return Live(
            store=self.store,
            documents=FakeDocuments(),
            clock=self.clock,
            entropy=SeededEntropy(3),
            bundles=lambda: 7,
            use=self._use,
        )

    def _use(self, limits: Limits) -> None:
        self.used.append(limits.version)
        self.store.use(limits, lambda: 7)

    async def apply(self, kind: VersionKind, text: str, source: str = "file.yaml") -> Any:
        return await self.live.apply(kind, text, source=source, by=OPS, reason="why")

    async def all(self) -> None:
        for kind in ("registry", "limits", "policy"):
            await self.apply(kind, "one two")

    async def freeze(self, target: str, by: str = "ops") -> None:
        op = Operation(caller="ops", key="", verb="freeze", id=target, digest="d")
        wanted = replace(mark_of(target, "freeze", at=self.clock.time), by=by)
        await self.store.mark(
            MarkCommand(op=op, mark=wanted, lift=False, evidence=Evidence(), now=self.clock.time)
        )


@pytest.fixture
async def office(tmp_path: Path) -> Any:
    one = Office(tmp_path / "store.db")
    yield one
    await one.store.close()


async def test_nothing_is_in_force_until_all_three_are(office: Office) -> None:
    for kind in ("registry", "limits", "policy"):
        with pytest.raises(Unavailable) as no:
            office.live.now_in_force()
        assert kind in no.value.reason
        assert no.value.rule == "settings"
        await office.apply(kind, "one")
    force = office.live.now_in_force()
    versions = force.versions
    assert (versions.policy, versions.registry, versions.limits, versions.bundles) == (1, 1, 1, 7)


async def test_a_changed_file_is_a_new_version_and_an_unchanged_one_none(office: Office) -> None:
    first = await office.apply("registry", "one two")
    assert (first.number, first.by, first.reason, first.source) == (1, "ops", "why", "file.yaml")
    assert await office.apply("registry", "two one") is None
    second = await office.apply("registry", "one")
    assert second.number == 2


async def test_an_unchanged_file_leaves_a_later_run_time_version_in_force(office: Office) -> None:
    await office.all()
    await office.live.put("limits", "three", "d3", by=OPS, reason="night")
    assert await office.apply("limits", "one two") is None
    assert office.live.now_in_force().versions.limits == 2
    current = await office.store.version("limits")
    assert (current.doc, current.source) == ("three", RUN_TIME)  # type: ignore[union-attr]
    assert (await office.apply("limits", "one two four")).number == 3


async def test_another_file_with_the_same_document_is_applied_of_its_own(office: Office) -> None:
    await office.apply("registry", "one")
    assert (await office.apply("registry", "one", "other.yaml")).number == 2


async def test_at_run_time_the_same_document_changes_nothing(office: Office) -> None:
    await office.apply("registry", "one", RUN_TIME)
    assert await office.apply("registry", "one", RUN_TIME) is None
    assert (await office.apply("registry", "two", RUN_TIME)).number == 2


@pytest.mark.parametrize("text", ["bad", "broken", "unproved"])
async def test_a_document_that_does_not_read_or_compile_changes_nothing(office: Office, text: str) -> None:
    await office.all()
    before = office.live.now_in_force()
    with pytest.raises(Malformed):
        await office.apply("registry", text)
    assert office.live.now_in_force() == before
    assert len(await office.store.history("registry")) == 1


async def test_undo_puts_an_earlier_document_in_force_as_a_new_version(office: Office) -> None:
    await office.all()
    with pytest.raises(Refused) as no:
        await office.live.undo("registry", None, by=OPS, reason="oops")
    assert no.value.code == "not_found"
    await office.apply("registry", "two three")
    undone = await office.live.undo("registry", None, by=OPS, reason="oops")
    assert (undone.number, undone.doc, undone.source, undone.reason) == (3, "one two", RUN_TIME, "oops")
    assert office.live.now_in_force().registry.digest == "one two"
    again = await office.live.undo("registry", 2, by=OPS, reason="back")
    assert (again.number, again.doc) == (4, "three two")
    for unknown in (0, 9, -1):
        with pytest.raises(Refused):
            await office.live.undo("registry", unknown, by=OPS, reason="x")


async def test_what_is_removed_is_frozen_and_what_comes_back_is_thawed(office: Office) -> None:
    await office.apply("registry", "one two")
    await office.apply("registry", "one")
    mark = office.store.marks()["tool:two"]
    assert (mark.verb, mark.reason) == ("freeze", "removed from the registry")
    await office.apply("registry", "one two")
    assert "tool:two" not in office.store.marks()


async def test_an_operators_own_mark_outlives_whatever_the_file_says(office: Office) -> None:
    await office.apply("registry", "one two")
    await office.freeze("tool:two")
    await office.apply("registry", "one")
    assert office.store.marks()["tool:two"].by == "ops"
    await office.apply("registry", "one two")
    assert office.store.marks()["tool:two"].by == "ops"


async def test_what_others_may_lift_is_frozen_by_the_file_too(office: Office) -> None:
    await office.apply("registry", "one two")
    await office.freeze("tool:two", by="signal of https://idp")
    await office.apply("registry", "one")
    assert office.store.marks()["tool:two"].by == "registry"


async def test_every_version_is_an_entry_that_says_what_changed(office: Office) -> None:
    await office.apply("registry", "one")
    await office.apply("registry", "two")
    view = SqliteLedgerView(office.path)
    entries = [each.facts for each in view.tail(-1, 100, ["version.applied"], None)]
    view.close()
    last = entries[-1]
    assert last is not None
    assert (last["number"], last["by"], last["reason"], last["changes"]) == (2, "ops", "why", ["one", "two"])


async def test_two_at_once_and_the_second_hears_of_the_first(office: Office) -> None:
    await office.apply("registry", "one")
    stale = await office.store.version("registry")
    await office.apply("registry", "two")

    class Behind:
        def __getattr__(self, name: str) -> Any:
            return getattr(office.store, name)

        async def version(self, kind: VersionKind) -> Any:
            return stale

    office.live._store = Behind()  # type: ignore[assignment]
    with pytest.raises(Conflict) as no:
        await office.apply("registry", "three")
    assert no.value.code == "stale_version"
    current = await office.store.version("registry")
    assert current is not None
    assert current.doc == "two"


async def test_after_a_restart_what_the_store_has_is_in_force(office: Office) -> None:
    await office.all()
    await office.apply("limits", "night")
    office.used.clear()
    again = office.fresh()
    with pytest.raises(Unavailable):
        again.now_in_force()
    await again.load()
    versions = again.now_in_force().versions
    assert (versions.policy, versions.registry, versions.limits) == (1, 1, 2)
    assert office.used == [2]


async def test_what_another_broker_applied_since_is_in_force_here_too(office: Office) -> None:
    """Both read the same files at their start."""
    other = office.fresh()
    await other.load()
    await office.all()
    for kind in ("registry", "limits", "policy"):
        assert await other.apply(kind, "one two", source="file.yaml", by=OPS, reason="why") is None
    assert other.now_in_force().versions == office.live.now_in_force().versions


async def test_a_store_that_has_nothing_loads_nothing(office: Office) -> None:
    await office.live.load()
    with pytest.raises(Unavailable):
        office.live.now_in_force()


async def test_the_store_knows_limits_before_they_are_in_force(office: Office) -> None:
    await office.apply("limits", "one")
    assert office.used[0] == 1
