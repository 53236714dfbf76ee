"""Whether the partners of [[federation]] can be known, are named, and answer. Nothing is taken over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from stepwrit_broker.attest.federation.fetch import fetch
from stepwrit_broker.attest.federation.memory import Memory
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Held, Partner
from stepwrit_broker.attest.federation.reading import read
from stepwrit_broker.cli.check import Check
from stepwrit_broker.config import Config
from stepwrit_broker.core.federation import refusal
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.wiring.configured import partner_of
from stepwrit_broker.wiring.federating import FOLDER

_TODO = "see docs/how-to/federation.md, what the outcomes mean"
_BRING = "bring the partner's bundle there (spire-server bundle show -format spiffe), readable for this user"


def federation_checks(config: Config, registry: Registry | None) -> Iterator[Check]:
    """One check for each partner."""
    for source in config.federation:
        partner = partner_of(source)
        yield _partner(partner, Memory(config.store.path.parent / FOLDER, partner.trust_domain), registry)


def _partner(partner: Partner, memory: Memory, registry: Registry | None) -> Check:
    name, domain = "federation", partner.trust_domain
    try:
        said = f"{domain}: {_asked(partner, memory)}"
    except BundleNotTaken as bad:
        lacks_bootstrap = bad.reason == "unreadable" and bad.detail.startswith(f"{partner.bootstrap}:")
        todo = _BRING if lacks_bootstrap else _TODO
        return Check(name=name, ok=False, said=f"{domain}: {bad}", todo=todo)
    if registry is not None and domain not in registry.trust_domains:
        todo = f"name {domain} in registry.yaml trust_domains; until then its workloads are refused"
        return Check(name=name, ok=None, said=said, todo=todo)
    return Check(name=name, ok=True, said=said)


def _asked(partner: Partner, memory: Memory) -> str:
    """What the endpoint gives now, judged as the broker would. Raises BundleNotTaken."""
    held, first = memory.load(), _bootstrap(partner)
    roots = _roots(held or first)
    if partner.endpoint_id is not None and not partner.serves_itself:
        return "its endpoint is of another trust domain and was not asked"
    offered = read(asyncio.run(fetch(partner, roots, time.time)), partner.trust_domain, time.time())
    why = None if held is None else refusal(held.revision, offered.revision)
    if why is not None:
        raise BundleNotTaken(why, f"sequence {offered.revision.sequence} is offered")
    bundle = offered.bundle
    return f"{len(bundle.x509)} X.509 and {len(bundle.jwt)} JWT authorities, sequence {bundle.sequence}"


def _roots(known: Held | None) -> Sequence[bytes]:
    return () if known is None else known.bundle.x509


def _bootstrap(partner: Partner) -> Held | None:
    if partner.bootstrap is None:
        return None
    try:
        return read(partner.bootstrap.read_bytes(), partner.trust_domain, time.time())
    except OSError as bad:
        raise BundleNotTaken("unreadable", f"{partner.bootstrap}: {bad.strerror}") from bad
