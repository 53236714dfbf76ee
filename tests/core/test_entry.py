from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from tests.fakes.build import AGENT, Maker, mark_of

from stepwrit_broker.core import entry
from stepwrit_broker.core.step import Life, StepRecord

MAKE = Maker(1000.25)
SALT = b"s" * 16
ROOT = MAKE.root_step()
LIFE = Life(
    state="accepted", round=1, performer=AGENT, accepted_at=0, beat_at=0, waiting_at=0, children=0, ended_at=0
)
CHILD = MAKE.child_step(StepRecord(step=ROOT, life=LIFE), influence="1")
GRANT = MAKE.grant(StepRecord(step=CHILD, life=LIFE))


def test_a_salted_digest_needs_the_salt_and_nothing_stays_nothing() -> None:
    assert entry.salted(SALT, "d") == hashlib.sha256(SALT + b"d").hexdigest()
    assert entry.salted(b"t" * 16, "d") != entry.salted(SALT, "d")
    assert entry.salted(SALT, "") == ""


def test_an_entry_is_one_line_of_json_with_its_own_four_words() -> None:
    raw = entry.encode("step.opened", "REF", 1.23456789, {"step": "é"})
    assert json.loads(raw) == {"v": 1, "kind": "step.opened", "ref": "REF", "at": 1.234568, "step": "é"}
    assert b"\n" not in raw
    assert raw == entry.encode("step.opened", "REF", 1.23456789, {"step": "é"})


def test_no_fact_stands_in_for_an_entrys_own_words() -> None:
    raw = entry.encode("refused", "REF", 1.0, {"kind": "grant.redeemed", "ref": "X", "at": 0, "v": 9})
    assert json.loads(raw) == {"v": 1, "kind": "refused", "ref": "REF", "at": 1.0}


def test_an_entry_fits_a_tile_or_is_refused() -> None:
    room = entry.MAX_BYTES - len(entry.encode("refused", "", 0.0, {"x": ""}))
    assert len(entry.encode("refused", "", 0.0, {"x": "y" * room})) == entry.MAX_BYTES
    with pytest.raises(ValueError, match="65536 bytes"):
        entry.encode("refused", "", 0.0, {"x": "y" * (room + 1)})


def test_a_decision_is_kept_under_its_salted_digest_whatever_the_order_of_its_members() -> None:
    digest, raw = entry.decision_digest(SALT, {"b": 1, "a": [2]})
    assert digest == hashlib.sha256(SALT + raw).hexdigest()
    assert entry.decision_digest(SALT, {"a": [2], "b": 1}) == (digest, raw)
    assert entry.decision_digest(b"other", {"a": [2], "b": 1})[0] != digest


def test_a_steps_story_holds_no_argument_and_no_person_in_clear() -> None:
    facts = entry.step_facts(CHILD, SALT)
    told = json.dumps(facts)
    assert CHILD.action is not None
    for secret in (CHILD.action.args, "per_1", "alice", "bob", "read my mail"):
        assert secret not in told
    assert facts["args"] == entry.salted(SALT, CHILD.action.args)
    assert facts["requester"] == entry.salted(SALT, "per_1")
    assert (facts["tool"], facts["impact"], facts["schema"]) == ("mail/send", "low", "schema1")
    assert facts["influence"] == "1"
    assert facts["ceiling"] == {"tools": ["mail/*"], "impact": "low"}


def test_a_roots_story_has_no_action_and_what_nobody_computed_is_null() -> None:
    owned = replace(ROOT, intent=replace(ROOT.intent, requester=None, owner="team"))
    facts = entry.step_facts(owned, SALT)
    assert [facts[name] for name in ("tool", "impact", "args", "schema", "influence", "parent")] == [None] * 6
    assert (facts["requester"], facts["owner"], facts["depth"]) == ("", "team", 0)


def test_a_later_hop_is_tied_to_its_step_by_few_words() -> None:
    assert entry.hop_facts(CHILD) == {
        "step": CHILD.id,
        "txn": CHILD.txn,
        "tenant": "acme",
        "origin": "model",
        "tool": "mail/send",
    }
    assert entry.hop_facts(ROOT)["tool"] is None


def test_a_grants_story_salts_the_request_and_never_holds_its_claims() -> None:
    facts = entry.grant_facts(GRANT, SALT)
    assert facts["request"] == entry.salted(SALT, GRANT.request)
    assert GRANT.claims not in json.dumps(facts)
    assert GRANT.url not in json.dumps(facts)
    assert facts["grant"] == GRANT.id


def test_a_marks_story() -> None:
    assert entry.mark_facts(mark_of("txn:x")) == {
        "target": "txn:x",
        "verb": "revoke",
        "reason": "test",
        "by": "ops",
    }
