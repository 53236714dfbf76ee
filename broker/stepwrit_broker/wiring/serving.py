"""What the listeners of a broker are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwrit_broker.attest.peers import OverMtls, PeerKeys
from stepwrit_broker.edge.nonces import Nonces
from stepwrit_broker.flows.advice import Adviser
from stepwrit_broker.flows.tiles import Tiles
from stepwrit_broker.wiring.administering import admin_ports
from stepwrit_broker.wiring.listening import Served

if TYPE_CHECKING:
    from stepwrit_broker.wiring.broker import Broker


def served(broker: Broker) -> Served:
    """Everything of this broker that a listener may need."""
    made, backing = broker.housed, broker.backing
    return Served(
        settings=broker.settings,
        clock=broker.clock,
        metrics=broker.metrics,
        store=backing.store,
        live=broker.live,
        house=made.house,
        signals=made.signals,
        peers=PeerKeys(OverMtls(broker.pooled), broker.metrics.peer_keys),
        adviser=Adviser(house=made.house, recorder=made.answers),
        identity=broker.pooled,
        bundles=broker.bundles,
        authorities=broker.authorities,
        nonces=Nonces(backing.secret),
        feed=made.newsroom,
        rings=made.rings,
        admin=admin_ports(
            broker.settings, backing, made.house, broker.live, broker.metrics, broker.rehearsal
        ),
        tiles=Tiles(backing.tiles),
        sign_ins=made.sign_ins,
        ready=broker.not_ready,
        health=broker.health,
        doubts=backing.doubts,
        draining=lambda: broker.draining,
    )
