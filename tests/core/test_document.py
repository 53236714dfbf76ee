from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.fakes.build import AGENT, SERVER, Maker

from stepwrit_broker.core import document
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.step import Life, StepRecord
from stepwrit_broker.core.workload import Workload

NOW = 1000.75
MAKE = Maker(NOW)
LIFE = Life(
    state="accepted", round=1, performer=AGENT, accepted_at=0, beat_at=0, waiting_at=0, children=0, ended_at=0
)
ROOT = MAKE.root_step()
CHILD = MAKE.child_step(StepRecord(step=ROOT, life=LIFE))
AGENT_ENTRY = Entry(id=AGENT, name="chat", role="agent", tenant="acme")
SERVER_ENTRY = Entry(id=SERVER, name="mail", role="mcp-server", tenant="acme")

BANK_ENTRY = Entry(
    id="spiffe://partner.test/bank/*", name="x", role="resource", tenant="acme", audience="https://x.example"
)
DECLARED = {"name": "books", "step": "close", "nth": 1, "times": 2}
SEEN = {"step": "stp_0", "tool": "mail/read", "returns": "untrusted"}


def caller(entry: Entry) -> Caller:
    workload = Workload(
        id=AGENT if entry is AGENT_ENTRY else SERVER, attested_by="x509", expires_at=2e9, serial="1"
    )
    return Caller(workload=workload, entry=entry)


def test_an_intents_question_has_no_action_and_names_the_transaction() -> None:
    asked = document.intent_question(caller=caller(AGENT_ENTRY), step=ROOT, home="example.test", now=NOW)
    assert (asked.asking, asked.principal, asked.resource) == ("start_intent", AGENT, ROOT.txn)
    assert (asked.document["action"], asked.document["facts"], asked.document["plan"]) == (None, {}, [])
    assert asked.document["requester"] == {
        "issuer": "https://idp.example.test",
        "subject": "alice",
        "id": "per_1",
    }
    assert asked.document["now"] == 1000


def test_a_steps_question_names_both_ends_and_the_deed() -> None:
    asked = document.step_question(
        caller=caller(AGENT_ENTRY),
        step=CHILD,
        performer=SERVER_ENTRY,
        home="example.test",
        now=NOW,
        influence=(SEEN,),
        workflow=DECLARED,
    )
    told = asked.document
    assert (asked.asking, asked.resource) == ("open_step", "mail/send")
    assert told["initiator"] == {
        "id": AGENT,
        "trust_domain": "example.test",
        "name": "chat",
        "role": "agent",
        "tenant": "acme",
        "attested_by": "x509",
    }
    assert told["performer"] == {
        "id": SERVER,
        "trust_domain": "example.test",
        "name": "mail",
        "role": "mcp-server",
        "tenant": "acme",
        "attested_by": None,
    }
    assert told["facts"] == {"to": "bob", "count": 2, "urgent": True}
    assert told["depth"] == 1
    assert (told["influence"], told["workflow"]) == ([SEEN], DECLARED)


def test_what_the_initiators_own_client_performs_is_the_clients() -> None:
    asked = document.step_question(
        caller=caller(SERVER_ENTRY),
        step=CHILD,
        performer=None,
        home="example.test",
        now=NOW,
        influence=(),
        workflow=None,
    )
    performer = asked.document["performer"]
    assert isinstance(performer, dict)
    assert (performer["name"], performer["role"]) == ("client", "agent")


def test_a_credentials_question_needs_an_initiator_who_is_still_registered() -> None:
    asked = document.credential_question(
        caller=caller(SERVER_ENTRY),
        step=CHILD,
        initiator=AGENT_ENTRY,
        redeemer=BANK_ENTRY,
        home="example.test",
        now=NOW,
        influence=(SEEN,),
        workflow=DECLARED,
    )
    assert (asked.asking, asked.document["audience"]) == ("issue_credential", "https://x.example")
    assert (asked.document["influence"], asked.document["workflow"]) == ([SEEN], DECLARED)
    redeemer = asked.document["redeemer"]
    assert isinstance(redeemer, dict)
    assert (redeemer["trust_domain"], asked.document["home"]) == ("partner.test", "example.test")
    with pytest.raises(Refused) as refused:
        document.credential_question(
            caller=caller(SERVER_ENTRY),
            step=CHILD,
            initiator=None,
            redeemer=None,
            home="example.test",
            now=NOW,
            influence=(),
            workflow=None,
        )
    assert refused.value.code == "not_registered"


def test_a_question_is_plain_json_without_fractions_and_unknown_is_null() -> None:
    owned = replace(ROOT, intent=replace(ROOT.intent, requester=None, owner="team"))
    asked = document.intent_question(caller=caller(AGENT_ENTRY), step=owned, home="example.test", now=NOW)
    assert json.loads(json.dumps(asked.document)) == asked.document
    assert asked.document.keys() == document.MEMBERS
    assert "." not in "".join(
        str(value) for value in asked.document.values() if isinstance(value, int | float)
    )
    assert asked.document["requester"] is None
    assert asked.document["influence"] is None
