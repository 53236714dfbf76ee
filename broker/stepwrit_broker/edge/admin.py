"""`/v1/admin`: what operators and auditors do. The same routes on the admin socket and on the mtls
listener.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from stepwrit.wire import MarkRequest
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.limits import Charge, Limits
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.edge.admin_approvals import approvals_routes
from stepwrit_broker.edge.admin_keys import key_routes
from stepwrit_broker.edge.admin_people import people_routes
from stepwrit_broker.edge.admin_proofs import proof_routes
from stepwrit_broker.edge.operator import (
    Reader,
    asking,
    check_sees_all,
    is_theirs,
    operator_of,
    ruler,
    sees_all,
)
from stepwrit_broker.edge.rehearsals import rehearsal_routes
from stepwrit_broker.flows import erasing, revoke
from stepwrit_broker.flows.explain import explain
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.impact import Impact
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.flows.shadowing import Shadowing
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import LedgerView, LoggedEntry
from stepwrit_broker.ports_approval import Keys
from stepwrit_broker.ports_ledger import Eraser


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MarkBody(_Strict):
    """One durable "no", or the lifting of a freeze."""

    verb: Literal["revoke", "freeze", "unfreeze"]
    target: str = Field(
        max_length=2100, description="KIND:NAME, for example `workload:spiffe://…` or `txn:txn_…`"
    )
    reason: str = Field(min_length=1, max_length=500)


class ApplyBody(_Strict):
    """A document's text, as in its file."""

    text: str = Field(max_length=4_000_000)
    source: str = Field(max_length=500, description="The file's path; an unchanged file changes nothing")
    reason: str = Field(min_length=1, max_length=500)
    accept_impact: bool = Field(default=False, description="A policy without a recent impact report too")


class RateBody(_Strict):
    """Change one rate limit."""

    name: str = Field(max_length=100)
    rate: str = Field(max_length=40, examples=["10/min"])
    burst: int | None = Field(default=None, ge=1)
    reason: str = Field(min_length=1, max_length=500)


class UndoBody(_Strict):
    """Put an earlier version in force again; without a number, the one before."""

    to: int | None = None
    reason: str = Field(min_length=1, max_length=500)


class EraseBody(_Strict):
    """A transaction's id, or a ref of what was recorded outside any."""

    name: str = Field(max_length=100)
    reason: str = Field(min_length=1, max_length=500)


class PathBody(_Strict):
    """A file on the broker's machine."""

    path: str = Field(max_length=4000)


class SealBody(PathBody):
    """A new file, and what goes into it."""

    before: str | None = Field(
        default=None, pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", description="Only entries of earlier months, UTC"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPorts:
    """What the admin face needs beyond the house."""

    house: House
    live: Live
    ledger: LedgerView
    metrics: Metrics
    shadow: Shadowing
    impact: Impact
    set_rate: Callable[[str, str, str, int | None], tuple[str, str]]  # doc, name, rate, burst → doc, digest
    checkpoint: Callable[[], Any]
    backup: Callable[[str], Any]
    seal: Callable[[str, float | None], Any]
    eraser: Eraser
    keys: Keys
    witnesses: Callable[[], dict[str, object]] = dict
    about: dict[str, str] = field(default_factory=dict)


Asking = Annotated[Reader, Depends(asking)]


def admin_router(ports: AdminPorts) -> APIRouter:
    """The routes; `app.state.reader` says who asks."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])
    _status(router, ports)
    _marks(router, ports)
    approvals_routes(router, ports.house)
    rehearsal_routes(router, ports.house, ports.shadow, ports.impact)
    key_routes(router, ports.house, ports.keys)
    people_routes(router, ports.house)
    proof_routes(router, ports.ledger)
    _versions(router, ports)
    _limits(router, ports)
    _ledger(router, ports)
    _erasing(router, ports)
    return router


def _status(router: APIRouter, ports: AdminPorts) -> None:
    @router.get("/status")
    def status(who: Asking) -> dict[str, object]:
        """What is in force, the ledger's head, and who you are here."""
        force = ports.live.now_in_force()
        return {
            "you": {"name": who.name, "operates": who.operates},
            "epoch": ports.house.store.epoch,
            "versions": {
                "registry": force.versions.registry,
                "limits": force.versions.limits,
                "policy": force.versions.policy,
                "bundles": force.versions.bundles,
            },
            "ledger": ports.ledger.head(),
            "marks": len(ports.house.store.marks()),
            "witnesses": ports.witnesses(),
            **ports.about,
        }


def _marks(router: APIRouter, ports: AdminPorts) -> None:
    @router.get("/marks")
    async def marks(who: Asking) -> list[dict[str, object]]:
        """The standing marks; to a tenant's reader those on what is the tenant's."""
        return [
            {"target": m.target, "verb": m.verb, "reason": m.reason, "by": m.by, "at": m.at, "ref": m.ref}
            for m in list(ports.house.store.marks().values())
            if await is_theirs(ports.house, who, m.target)
        ]

    @router.post("/marks")
    async def mark(body: MarkBody, request: Request, who: Asking) -> dict[str, object]:
        """Revoke, freeze or unfreeze; in force once this answers."""
        asked = MarkRequest(verb=body.verb, target=body.target, reason=body.reason)
        made = await revoke.mark(ports.house, operator_of(who), asked, _op(request), body.model_dump_json())
        ports.metrics.marked(body.verb)
        return {"target": made.target, "verb": body.verb, "ref": made.ref}


def _op(request: Request) -> str:
    name = request.headers.get("idempotency-key", "")
    if not 16 <= len(name) <= 128:
        raise Malformed("invalid_request", "Idempotency-Key: 16 to 128 visible ASCII characters are required")
    return name


def _versions(router: APIRouter, ports: AdminPorts) -> None:
    @router.get("/{kind}")
    async def one(
        kind: VersionKind, who: Asking, version: Annotated[int | None, Query(ge=1)] = None
    ) -> dict[str, object]:
        """The document in force, or that of one version."""
        check_sees_all(ports.house, who)
        stored = await ports.house.store.version(kind, version)
        if stored is None:
            what = (
                f"no {kind} is in force"
                if version is None
                else f"there is no version {version} of the {kind}"
            )
            raise Refused("not_found", what)
        return _version(stored, doc=True)

    @router.get("/{kind}/history")
    async def history(kind: VersionKind, who: Asking) -> list[dict[str, object]]:
        """All versions, oldest first; of policies also with which known impact each was put in force."""
        check_sees_all(ports.house, who)
        versions = await ports.house.store.history(kind)
        told = [await asyncio.to_thread(_impact, ports.ledger, each) for each in versions]
        return [
            {**_version(each, doc=False), "impact": impact}
            for each, impact in zip(versions, told, strict=True)
        ]

    @router.post("/{kind}/apply")
    async def apply(kind: VersionKind, body: ApplyBody, who: Asking) -> dict[str, object]:
        """Apply a document; nothing changes unless all of it is good. The answer is what is in force then."""
        stored = await ports.live.apply(
            kind,
            body.text,
            source=body.source,
            by=ruler(ports.house, who),
            reason=body.reason,
            accepts_impact=body.accept_impact,
        )
        in_force = stored or await ports.house.store.version(kind)
        told = {} if in_force is None else _version(in_force, doc=False)
        return {"changed": stored is not None, **told}

    @router.post("/{kind}/undo")
    async def undo(kind: VersionKind, body: UndoBody, who: Asking) -> dict[str, object]:
        """Put an earlier version in force again."""
        return _version(
            await ports.live.undo(kind, body.to, by=ruler(ports.house, who), reason=body.reason), doc=False
        )


def _impact(ledger: LedgerView, stored: StoredVersion) -> object:
    """As its entry says; None where nothing was known, or the entry is only in an export."""
    told = ledger.by_ref(stored.ref, None) if stored.kind == "policy" else ()
    facts = next((each.facts for each in told if each.kind == "version.applied"), None)
    return None if facts is None else facts.get("impact")


def _version(stored: StoredVersion, *, doc: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "kind": stored.kind,
        "version": stored.number,
        "digest": stored.digest,
        "source": stored.source,
        "by": stored.by,
        "reason": stored.reason,
        "at": stored.at,
        "ref": stored.ref,
    }
    return {**shown, "doc": stored.doc} if doc else shown


def _limits(router: APIRouter, ports: AdminPorts) -> None:
    @router.post("/limits/rate")
    async def set_rate(body: RateBody, who: Asking) -> dict[str, object]:
        """Change one rate; in force on the next request."""
        operator = ruler(ports.house, who)
        current = await ports.house.store.version("limits")
        if current is None:
            raise Refused("not_found", "no limits are in force")
        doc, digest = ports.set_rate(current.doc, body.name, body.rate, body.burst)
        stored = await ports.live.put("limits", doc, digest, by=operator, reason=body.reason)
        return _version(stored, doc=False)

    @router.get("/limits/explain")
    async def explain_limits(
        who: Asking,
        workload: Annotated[str, Query(alias="as")],
        tool: str = "",
        origin: str = "model",
    ) -> list[dict[str, object]]:
        """Which limits speak of this, and what is left of each now."""
        if not await is_theirs(ports.house, who, f"workload:{workload}"):
            raise Refused("not_found", "no such workload in your tenant")
        limits, now = ports.live.now_in_force().limits, ports.house.clock.now()
        return _explained(limits, ports.house.store.tats(), workload, tool, origin, now)


def _explained(
    limits: Limits, tats: Any, workload: str, tool: str, origin: str, now: float
) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for rate in limits.rates:
        charge = Charge(on=rate.on, values={"workload": workload, "tool": tool, "origin": origin})
        if not charge.fits(rate.match):
            continue
        interval = rate.period_s / rate.count
        spent = max(0.0, tats.get(charge.key(rate.name, rate.per), 0.0) - now) / interval
        lines.append(
            {"limit": rate.name, "on": rate.on, "per": list(rate.per), "rate": rate.text, "burst": rate.burst,
             "left_now": max(0, int(rate.burst - spent + 1e-9))}
        )  # fmt: skip
    return lines


def _ledger(router: APIRouter, ports: AdminPorts) -> None:
    @router.get("/explain/{name}")
    async def story(name: str, who: Asking) -> dict[str, object]:
        """The whole chain behind a ref, a transaction, or a step or credential that the store still knows."""
        txn = await _transaction_of(ports, name)
        return await asyncio.to_thread(explain, ports.ledger, txn, who.tenant)

    @router.get("/ledger/tail")
    def tail(
        who: Asking,
        after: int = -1,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        kinds: str = "",
    ) -> list[dict[str, object]]:
        """Entries above a number, oldest first; what is of no tenant may name those of every other."""
        wanted = [kind for kind in kinds.split(",") if kind]
        told, whole = ports.ledger.tail(after, limit, wanted, who.tenant), sees_all(ports.house, who)
        return [_entry(each) for each in told if whole or each.tenant is not None]

    @router.get("/ledger/head")
    async def head(who: Asking) -> dict[str, object]:  # noqa: ARG001
        """Sign what is committed now and show it."""
        note = await ports.checkpoint()
        return {**await asyncio.to_thread(ports.ledger.head), "checkpoint": note}

    @router.get("/ledger/proof/{seq}")
    def proof(seq: int, who: Asking) -> dict[str, object]:  # noqa: ARG001
        """An entry's inclusion proof."""
        return dict(ports.ledger.inclusion(seq))

    @router.post("/store/backup")
    async def backup(body: PathBody, who: Asking) -> dict[str, object]:
        """A consistent copy while serving, on the broker's machine."""
        ruler(ports.house, who)
        await ports.backup(body.path)
        return {"path": body.path}

    @router.post("/ledger/seal")
    async def seal(body: SealBody, who: Asking) -> dict[str, object]:
        """Export what is signed, or what is older than a month, and drop its bodies; proofs still work."""
        ruler(ports.house, who)
        sealed: dict[str, object] = await ports.seal(body.path, _month(body.before))
        return sealed


def _erasing(router: APIRouter, ports: AdminPorts) -> None:
    @router.post("/ledger/erase")
    async def erase_one(body: EraseBody, who: Asking) -> dict[str, object]:
        """Erase a transaction's salt and documents; entries and hashes stay."""
        done = await erasing.erase(
            ports.house, ports.ledger, ports.eraser, operator_of(who), body.name, body.reason
        )
        return {"name": body.name, "ref": done.ref, "documents": done.documents}


def _month(name: str | None) -> float | None:
    """When a month begins, UTC, seconds since the epoch."""
    if name is None:
        return None
    return datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC).timestamp()


async def _transaction_of(ports: AdminPorts, name: str) -> str:
    if is_id("stp", name):
        step = await ports.house.store.step(name)
        return name if step is None else step.step.txn
    if is_id("grt", name):
        grant = await ports.house.store.grant(name)
        return name if grant is None else grant.grant.txn
    return name


def _entry(entry: LoggedEntry) -> dict[str, object]:
    return {
        "seq": entry.seq,
        "at": entry.at,
        "kind": entry.kind,
        "txn": entry.txn,
        "ref": entry.ref,
        "tenant": entry.tenant,
        "facts": entry.facts,
    }
