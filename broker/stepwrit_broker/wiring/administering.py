"""What the operator's routes need of a broker."""

from __future__ import annotations

from stepwrit_broker.approvals.keys import KeySignatures
from stepwrit_broker.core import ids
from stepwrit_broker.edge.admin import AdminPorts
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.observe import Metrics
from stepwrit_broker.registry.limits_file import set_rate
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.wiring.ledgering import Ledgering
from stepwrit_broker.wiring.rehearsing import Rehearsal
from stepwrit_broker.wiring.settings import BrokerSettings
from stepwrit_broker.wiring.witnessing import Witnessing


def admin_ports(
    settings: BrokerSettings,
    store: SqliteStore,
    house: House,
    live: Live,
    ledger: SqliteLedgerView,
    metrics: Metrics,
    ledgering: Ledgering,
    witnessing: Witnessing,
    rehearsal: Rehearsal,
) -> AdminPorts:
    """The ports of `/v1/admin`."""

    async def seal(path: str, before: float | None) -> dict[str, object]:
        ref = ids.make_ref(house.entropy.bytes(ids.REF_BYTES))
        return await ledgering.seal(store, house.clock, path, ref, before)

    return AdminPorts(
        house=house,
        live=live,
        ledger=ledger,
        metrics=metrics,
        shadow=rehearsal.shadow,
        impact=rehearsal.impact,
        set_rate=_rate,
        checkpoint=lambda: ledgering.sign(store),
        backup=store.backup,
        seal=seal,
        eraser=store,
        keys=KeySignatures(),
        witnesses=lambda: {"asked": witnessing.told(), "doubts": witnessing.doubts()},
        about={
            "broker_id": settings.broker_id,
            "trust_domain": settings.trust_domain,
            "issuer": settings.issuer,
            "vkey": ledgering.vkey,
        },
    )


def _rate(doc: str, name: str, wanted: str, burst: int | None) -> tuple[str, str]:
    stored = set_rate(doc, name, wanted, burst)
    return stored.doc, stored.digest
