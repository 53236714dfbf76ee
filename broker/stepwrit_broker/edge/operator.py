"""Who reads and operates: a local uid on the admin socket, or an X.509-SVID of role operator or auditor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from fastapi import Request

from stepwrit_broker.core.errors import Refused, Unproven
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.connection import UnixPeer
from stepwrit_broker.edge.http import Request as Bare
from stepwrit_broker.flows import revoke
from stepwrit_broker.flows.house import House


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """name goes into the ledger. tenant: None sees all. operates: may change things."""

    name: str
    tenant: str | None
    operates: bool


def sees_all(house: House, who: Reader) -> bool:
    """Whether this reader may know of what is not one tenant's: registry, limits, policy, others' names."""
    return revoke.sees_all(house, revoke.Operator(name=who.name, tenant=who.tenant))


def check_sees_all(house: House, who: Reader) -> None:
    """Raises Refused(`wrong_workload`)."""
    if not sees_all(house, who):
        raise Refused("wrong_workload", "this holds for every tenant: use the admin socket", rule="tenant")


async def is_theirs(house: House, who: Reader, target: str) -> bool:
    """Whether this reader may know of a mark on the target."""
    kind, _, name = target.partition(":")
    return sees_all(house, who) or await revoke.tenant_of(house, kind, name) == who.tenant


def operator_of(who: Reader) -> revoke.Operator:
    """Who may change things. Raises Refused(`wrong_workload`) for an auditor."""
    if not who.operates:
        raise Refused("wrong_workload", "an auditor reads; this needs an operator")
    return revoke.Operator(name=who.name, tenant=who.tenant)


def ruler(house: House, who: Reader) -> revoke.Operator:
    """Registry, limits and policy hold for every tenant: a tenant's operator changes them only where it is
    the only one. Raises Refused(`wrong_workload`).
    """
    operator = operator_of(who)
    check_sees_all(house, who)
    return operator


async def asking(request: Request) -> Reader:
    """Who asks, by the rule of the listener; refuses whoever may not."""
    reader: Asked = request.app.state.reader
    return await reader(request)


Asked = Callable[[Request], Awaitable[Reader]]


def by_socket(uids: frozenset[int]) -> Asked:
    """Root, the broker's own uid and `admin_uids`; the uid is what the ledger records."""

    async def reader(request: Request) -> Reader:
        peer = cast("UnixPeer | None", request.scope.get("extensions", {}).get("stepwrit.unix"))
        if peer is None:
            raise Unproven("unattested", "the admin socket could not see who is calling")
        if peer.uid not in uids:
            raise Refused(
                "wrong_workload",
                f"uid {peer.uid} is not one of the operators",
                rule="admin_uids",
                who_can_change_it="the operator (broker.toml [listen] admin_uids)",
            )
        return Reader(name=f"uid {peer.uid}", tenant=None, operates=True)

    return reader


def by_svid(callers: Callers) -> Asked:
    """Role `operator` may change things, role `auditor` may read; both within their tenant."""

    async def reader(request: Request) -> Reader:
        bare = Bare(scope=request.scope, method=request.method, path=request.url.path, body=b"")
        caller = await callers.of(bare, proof=False)
        if caller.entry.role not in ("operator", "auditor"):
            raise Refused("wrong_workload", "this needs the role operator or auditor", rule="registry role")
        return Reader(
            name=caller.workload.id, tenant=caller.entry.tenant, operates=caller.entry.role == "operator"
        )

    return reader
