"""The tree: what it tells, in a terminal, in a pipe and without colour."""

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType
from tests.cli.story import ENTRIES, REFUSED_REF, TXN, story

from stepwrit_broker.cli.render import lineage_tree, origin_badge, story_view
from stepwrit_broker.cli.telling import _line

GOLDEN = f"""\
“pay invoice 42”
{TXN}
2025-10-09 08:53:20Z   spiffe://prod.example
├── ● HUMAN  intent  opened
│   alice of https://idp.example, proof bound to this intent via agent/chat
│   ceiling ledger/*, up to high impact
│   08:53:20.000Z   ref R00T000000
│   permit by start-by-person (policy v3, registry v7, limits v2)
│   └── ◆ MODEL  ledger/transfer  high impact  done
│       agent/chat → ns/pay/ledger-1
│       08:53:20.100Z for 0.700 s   ref M0DE100000
│       permit by registered-tools (policy v3, registry v7, limits v2)
│       ├── credential POST at https://bank.example  redeemed by bank
│       │   issued +0.300 s, redeemed +0.350 s   ref GRANT00000
│       │   permit by registered-tools, bank-hours (policy v3, registry v7, limits v2)
│       ├── credential GET at https://bank.example  closed unused
│       │   issued +0.400 s, closed unused +0.800 s   ref GRANT10000
│       ├── ✗ refused at redeem: replay  the credential was used before, by another
│       │   by spiffe://partner.example/thief for ledger/transfer
│       │   rule replay_foreign   ref {REFUSED_REF}
│       └── ■ SERVER audit/note  low impact  done
│           ns/pay/ledger-1 → audit
│           08:53:20.600Z for 0.100 s   ref SERVER0000
│           decision d-server…: its document has been erased
│           └── used at once by the tool itself, which is its own resource
│               +0.650 s   ref SERVER0000
└── ! revoke set on txn:{TXN} by uid 0: incident 31
    08:53:20.900Z   ref MARK000000
"""


def printed(what: RenderableType, *, width: int = 110, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    Console(file=file, width=width, highlight=False, emoji=False, color_system=None).print(what)
    file.seek(0)
    return "\n".join(line.rstrip() for line in file.read().splitlines()) + "\n"


def test_the_tree_tells_the_whole_story():
    assert printed(lineage_tree(story())) == GOLDEN


def test_a_refusal_by_policy_says_which_policies_and_versions_refused():
    refused = next(each for each in ENTRIES if each.kind == "refused")
    facts = {
        **(refused.facts or {}),
        "code": "policy",
        "rule": "policy v3 no-exports",
        "decision": "d-refused",
    }
    entries = [replace(refused, facts=facts) if each is refused else each for each in ENTRIES]
    told = story(entries=entries)
    assert "its document has been erased" in printed(story_view(told))
    told["decisions"]["d-refused"] = {
        "verdict": "deny",
        "policies": ["no-exports", "hours"],
        "versions": {"policy": 3, "registry": 7, "limits": 2},
    }
    for shown in (printed(lineage_tree(told)), printed(story_view({**told, "name": REFUSED_REF}))):
        assert "deny by no-exports, hours (policy v3, registry v7, limits v2)" in shown


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_width_loses_a_word(width: int):
    assert "".join(GOLDEN.split()) != ""
    words = [word for word in GOLDEN.split() if word.isalpha()]
    shown = printed(lineage_tree(story()), width=width)
    assert all(len(line) <= width for line in shown.splitlines())
    assert all(word in shown for word in words)


def test_origins_differ_by_word_and_sign_and_not_by_colour_alone():
    badges = {str(origin_badge(origin)).strip() for origin in ("human", "model", "server")}
    assert badges == {"● HUMAN", "◆ MODEL", "■ SERVER"}
    assert "UNKNOWN" in str(origin_badge(None))


def test_a_terminal_that_knows_only_ascii_still_gets_the_words():
    shown = printed(lineage_tree(story()), encoding="ascii")
    assert all(word in shown for word in ("HUMAN", "MODEL", "SERVER", "refused at redeem: replay"))


def test_a_ref_is_pointed_at_where_it_stands_in_the_tree():
    assert "◀" not in printed(story_view(story()))
    shown = printed(story_view(story(REFUSED_REF)))
    assert f"ref {REFUSED_REF} ◀ this" in shown
    assert shown.count("◀") == 1


def test_a_ref_outside_the_tree_is_told_above_it():
    shown = printed(story_view(story("C105ED1000")))
    assert shown.startswith("step.closed  ref C105ED1000")
    assert "“pay invoice 42”" in shown


def test_a_refusal_outside_any_transaction_is_told_alone():
    alone = [replace(ENTRIES[6], txn=None)]
    shown = printed(story_view(story(REFUSED_REF, alone)))
    assert "✗ refused at redeem: replay  the credential was used before" in shown
    assert "HUMAN" not in shown


def test_markup_in_what_others_wrote_is_only_text():
    nasty = dict(ENTRIES[6].facts or {}) | {"reason": "[bold red]no[/] [link=https://evil.example]x[/link]"}
    shown = printed(
        lineage_tree(story(entries=[*ENTRIES[:6], replace(ENTRIES[6], facts=nasty), *ENTRIES[7:]]))
    )
    assert "[bold red]no[/] [link=https://evil.example]x[/link]" in shown


def test_control_characters_in_what_others_wrote_do_not_reach_the_terminal():
    nasty = dict(ENTRIES[6].facts or {}) | {"reason": "no\x1b[2J\x07\r\n└── ● HUMAN\u202e"}
    shown = printed(lineage_tree(story(entries=[*ENTRIES[:6], replace(ENTRIES[6], facts=nasty)])))
    assert "no\\x1b[2J\\x07\\r\\n└── ● HUMAN\\u202e" in "".join(shown.split("\n        ")).replace("│", "")
    assert shown.count("\n") == printed(lineage_tree(story(entries=ENTRIES[:7]))).count("\n")


def test_sealed_entries_are_said_to_be_in_an_export():
    sealed = [replace(each, facts=None) for each in ENTRIES]
    shown = printed(story_view(story(TXN, sealed)))
    assert f"what {len(ENTRIES)} of its entries say is in an export" in shown
    assert "ref M0DE100000" in shown


def test_a_trigger_has_an_owner_and_no_person():
    facts = dict(ENTRIES[0].facts or {}) | {
        "origin": "server",
        "proof": None,
        "owner": "ops@prod.example",
        "decision": None,
    }
    shown = printed(lineage_tree(story(entries=[replace(ENTRIES[0], facts=facts)])))
    assert "■ SERVER intent" in shown
    assert "a trigger that ops@prod.example answers for, via agent/chat" in shown


def test_a_call_without_a_step_is_told_as_nobodys():
    facts = dict(ENTRIES[0].facts or {}) | {
        "origin": "server",
        "proof": None,
        "owner": None,
        "without_step": "ledger/ping",
        "decision": None,
    }
    shown = printed(lineage_tree(story(entries=[replace(ENTRIES[0], facts=facts)])))
    assert "■ SERVER intent" in shown
    assert "a call of ledger/ping that came without a step, nobody behind it, via agent/chat" in shown


def test_tail_tells_of_a_question_who_asked_what_and_what_was_said() -> None:
    facts = {"asking": "open_step", "tool": "ledger/pay", "caller": "spiffe://home.test/gateway/edge"}
    entry = {"seq": 7, "at": 1.0, "ref": "C2DKVV3BDW", "kind": "question.answered"}
    yes = _line({**entry, "facts": {**facts, "answer": "permit", "code": None}}, "home.test").plain
    no = _line({**entry, "facts": {**facts, "answer": "deny", "code": "ceiling"}}, "home.test").plain
    assert yes.endswith("permit  open_step ledger/pay  asked by gateway/edge")
    assert no.endswith("ceiling  open_step ledger/pay  asked by gateway/edge")
    counted = {**entry, "kind": "question.counted", "facts": {**facts, "counted": {"permit": 3}}}
    assert _line(counted, "home.test").plain.endswith("{'permit': 3} more by gateway/edge")


def test_a_step_shows_what_could_have_had_a_part_in_it_and_what_declares_it():
    opened = next(each for each in ENTRIES if each.kind == "step.opened")
    told = story()
    influence = [
        {"tool": "mail/read", "times": 3, "returns": "untrusted"},
        {"tool": "notes/read", "times": 1, "returns": "trusted"},
    ]
    digest = str((opened.facts or {})["decision"])
    kept = told["decisions"][digest] or {}
    told["decisions"][digest] = {
        **kept,
        "document": {
            "influence": influence,
            "workflow": {"name": "books", "step": "close", "nth": 1, "times": 2},
        },
    }
    shown = printed(lineage_tree(told))
    assert "could have seen mail/read ×3 (untrusted), notes/read" in shown
    assert "workflow books: close, 1 of 2" in shown


def test_where_the_document_is_gone_the_numbers_of_the_steps_are_left():
    entries = [
        replace(each, facts={**(each.facts or {}), "influence": "1-2,4"}) if "opened" in each.kind else each
        for each in ENTRIES
    ]
    told = story(entries=entries)
    told["decisions"] = {}
    assert "could have seen steps 1-2,4" in printed(lineage_tree(told))
    assert "could have seen" not in printed(lineage_tree(story()))


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("refused.counted", {"unattested": {"tls handshake: eof": 2}}, "unattested: 2 × tls handshake: eof"),
        ("refused.counted", {"counted": 3, "caller": "spiffe://home.test/a"}, "3 more by a"),
        (
            "approval.signed",
            {"tool": "ledger/pay", "approval": "apr_1", "authenticator": "aut_1"},
            "ledger/pay  apr_1 by aut_1",
        ),
        (
            "approval.cancelled",
            {"tool": "ledger/pay", "approval": "apr_1", "by": "uid 0"},
            "ledger/pay  apr_1 by uid 0",
        ),
        (
            "authenticator.proposed",
            {"authenticator": "aut_1", "person": "per_1", "invited_by": "uid 0"},
            "aut_1 of per_1 by uid 0: -",
        ),
        (
            "authenticator.invited",
            {"invitation": "ABC", "person": "per_1", "by": "uid 0", "reason": "new laptop"},
            "ABC of per_1 by uid 0: new laptop",
        ),
    ],
)
def test_tail_says_who_did_what_to_an_approval_and_an_authenticator(
    kind: str, facts: dict[str, object], said: str
) -> None:
    entry = {"seq": 7, "at": 1.0, "ref": "C2DKVV3BDW", "kind": kind, "facts": facts}
    assert _line(entry, "home.test").plain.endswith(said)
