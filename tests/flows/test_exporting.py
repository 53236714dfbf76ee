"""Grant a step to another trust domain's broker: what needs no second broker to be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.flows.rig import AGENT, Rig, ceiling

from stepwrit.wire import CeilingSpec
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.peers import Peer
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.registry import Entry, Tool
from stepwrit_broker.core.verdict import NeedsApproval, Permit
from stepwrit_broker.flows.exporting import export
from stepwrit_broker.kinds.id_jag import IdJag

ISSUER = "https://broker.away.test"
PEER = Peer(
    name="away",
    issuer=ISSUER,
    trust_domain="away.test",
    tenant="acme",
    owner="team",
    broker="spiffe://away.test/stepwrit/broker",
    url="https://broker.away.test:8443",
)
FAR = Entry(
    id="spiffe://away.test/mcp/vault",
    name="far",
    role="mcp-server",
    tenant="acme",
    issuer=ISSUER,
    tools={"read": Tool(name="far/read", impact="low")},
)


class Signer:
    """Signs with a word."""

    def sign(self, plan: str, now: float) -> str:
        from stepwrit.digest import b64u

        assert now > 0
        return f"head.{b64u(plan.encode())}.signature"


@pytest.fixture
def far(rig: Rig) -> Rig:
    entries = tuple(
        replace(each, may_start=ceiling("mail/*", "far/*")) if each.id == AGENT else each
        for each in rig.settings.registry.entries
    )
    registry = replace(rig.settings.registry, entries=(*entries, FAR), peers=(PEER,))
    people = Persons({"alice": frozenset({Identity("https://idp.example", "alice")})}, {"alice": "acme"})
    rig.settings.registry = replace(registry, persons=people)
    rig.house = replace(rig.house, kinds={**rig.house.kinds, "id_jag": IdJag(Signer())})
    return rig


WISH = CeilingSpec(tools=("far/*",))


async def test_a_grant_is_an_entry_and_its_claims_are_kept_beside_the_log(far: Rig) -> None:
    ready = await far.open(await far.start(ceiling=WISH), "far/read")
    made = await export(far.house, far.caller(AGENT), ready.record.step.id, ISSUER, far.op(), "d")
    assert made.made not in repr(made)
    assert made.expires_in == 60
    (entry,) = far.entries("grant.issued")
    assert (entry["kind_of_credential"], entry["audience"]) == ("id_jag", ISSUER)
    assert entry["export"]["issuer"] == ISSUER
    (accepted,) = far.entries("step.accepted")
    assert (accepted["performer"], accepted["stands_in_for"]) == (AGENT, FAR.id)
    await far.house.kinds["id_jag"].revoke(made.record.grant)


async def test_what_waits_for_a_person_is_not_granted_and_is_no_refusal(far: Rig) -> None:
    root = await far.start(ceiling=WISH)
    far.policy.says = NeedsApproval(policies=("p1",), setting="policy p1")
    with pytest.raises(Refused) as waits:
        await far.open(root, "far/read")
    assert waits.value.approval is not None
    before = far.entries("refused")
    with pytest.raises(Problem) as no:
        await export(far.house, far.caller(AGENT), waits.value.approval.step, ISSUER, far.op(), "d")
    assert no.value.code == "authorization_pending"
    assert far.entries("refused") == before
    far.policy.says = Permit(policies=("p1",))
