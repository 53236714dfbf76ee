"""What the operator's routes need of a broker."""

from __future__ import annotations

from stepwrit_broker.approvals.keys import KeySignatures
from stepwrit_broker.edge.admin import AdminPorts
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.observe import Metrics
from stepwrit_broker.registry.limits_file import set_rate
from stepwrit_broker.wiring.backing import Backing
from stepwrit_broker.wiring.rehearsing import Rehearsal
from stepwrit_broker.wiring.settings import BrokerSettings


def admin_ports(
    settings: BrokerSettings,
    backing: Backing,
    house: House,
    live: Live,
    metrics: Metrics,
    rehearsal: Rehearsal,
) -> AdminPorts:
    """The ports of `/v1/admin`."""

    async def seal(path: str, before: float | None) -> dict[str, object]:
        return await backing.seal(path, house.ref(), before)

    return AdminPorts(
        house=house,
        live=live,
        ledger=backing.ledger,
        metrics=metrics,
        shadow=rehearsal.shadow,
        impact=rehearsal.impact,
        set_rate=_rate,
        checkpoint=backing.sign,
        backup=backing.store.backup,
        seal=seal,
        eraser=backing.eraser,
        keys=KeySignatures(),
        witnesses=backing.witnesses,
        about={
            "broker_id": settings.broker_id,
            "trust_domain": settings.trust_domain,
            "issuer": settings.issuer,
            "vkey": backing.vkey,
        },
    )


def _rate(doc: str, name: str, wanted: str, burst: int | None) -> tuple[str, str]:
    stored = set_rate(doc, name, wanted, burst)
    return stored.doc, stored.digest
