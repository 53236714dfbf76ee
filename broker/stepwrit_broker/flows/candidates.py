"""Candidate policies in the running broker: how operators name them, and what their acts leave on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stepwrit_broker.core import ids
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.flows.shadow import Candidate
from stepwrit_broker.ports import Clock, Entropy, Evidence, Happening, Store

Json = Mapping[str, Any]


class Workshop(Protocol):
    """Where candidates are made. Malformed names every problem of the policy; it is for its author only."""

    async def open(self, text: str) -> Candidate:
        """From the texts of a folder. Raises Malformed, Unavailable."""
        ...

    async def reopen(self, doc: str) -> Candidate:
        """From a canonical document. Raises Malformed, Unavailable."""
        ...


class Keeper(Protocol):
    """Keeps one JSON object beside the store."""

    def load(self) -> Json:
        """What was kept; empty when nothing was, or nothing that can be read."""
        ...

    async def save(self, kept: Json) -> None:
        """Durable when it returns. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A candidate as an operator names it: the texts of a folder, or the number of a version. label: where
    from.
    """

    text: str | None
    version: int | None
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What acts on candidates share. None of them decides anything; each is on record before it counts."""

    store: Store
    clock: Clock
    entropy: Entropy
    workshop: Workshop

    async def open(self, wanted: Wanted) -> Candidate:
        """The candidate that an operator names. Raises Malformed, Refused(`not_found`), Unavailable."""
        if wanted.text is not None:
            return await self.workshop.open(wanted.text)
        stored = await self.store.version("policy", wanted.version)
        if stored is None:
            raise Refused("not_found", f"there is no version {wanted.version} of the policy")
        return await self.workshop.reopen(stored.doc)

    async def in_force(self) -> StoredVersion | None:
        """The live policy."""
        return await self.store.version("policy")

    def ref(self) -> str:
        """A fresh ref."""
        return ids.make_ref(self.entropy.bytes(ids.REF_BYTES))

    async def say(self, kind: str, ref: str, facts: Json) -> None:
        """An entry of the ledger. Raises Unavailable."""
        happening = Happening(
            kind=kind, ref=ref, tenant=None, txn=None, evidence=Evidence(facts=facts), now=self.clock.now()
        )
        await self.store.record(happening)


def version_json(stored: StoredVersion | None) -> Json | None:
    """Which version, by number and digest."""
    return None if stored is None else {"version": stored.number, "digest": stored.digest}
