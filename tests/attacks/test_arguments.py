"""What the tool was asked to do is what was decided on, to the last digit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.stage import ARGS, Opened, Stage, accept_body, new, refused

from stepwrit.digest import args_digest

CHANGED: list[dict[str, Any]] = [
    {"to": "bob", "cents": 50_000},
    {"to": "eve", "cents": 500},
    {"to": "bob", "cents": 500, "note": ""},
    {"to": "bob"},
    {"to": "bob", "cents": "500"},
    {"To": "bob", "cents": 500},
    {"to": "b\u043eb", "cents": 500},  # a Cyrillic letter
    {},
]


@pytest.mark.parametrize("args", CHANGED, ids=json.dumps)
async def test_changed_arguments_are_refused_and_the_right_ones_still_pass(
    stage: Stage, args: dict[str, Any]
) -> None:
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    changed = await ledger.json(f"/v1/steps/{opened.step}/accept", accept_body(opened, args=args))
    refused(stage, changed, "arguments_changed")
    assert not stage.happened(opened.txn, "step.accepted")
    (await ledger.accept(opened)).ok()


async def test_the_proof_and_the_digest_must_speak_of_the_same_arguments(stage: Stage) -> None:
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    path, other = f"/v1/steps/{opened.step}/accept", {"to": "eve", "cents": 500}
    proof_of_other = accept_body(opened, args=other)["proof"]
    refused(stage, await ledger.json(path, accept_body(opened) | {"proof": proof_of_other}), "invalid_proof")
    digest_of_other = accept_body(opened) | {"args": args_digest(other)}
    refused(stage, await ledger.json(path, digest_of_other), "arguments_changed")
    (await ledger.accept(opened)).ok()


AMBIGUOUS = {
    "an integer beyond doubles": '{"account":9007199254740993}',
    "its neighbour, which has the same digest in RFC 8785": '{"account":9007199254740992}',
    "a negative one": '{"account":-9007199254740993}',
    "a long one": '{"account":' + "9" * 4000 + "}",
    "a fraction that no double holds": '{"amount":0.1000000000000000055511151231257827}',
    "an integer in disguise": '{"account":9.007199254740993e15}',
    "beyond all doubles": '{"amount":1e400}',
    "NaN": '{"amount":NaN}',
    "Infinity": '{"amount":Infinity}',
    "a member twice": '{"cents":1,"cents":100000}',
    "a member twice, once escaped": '{"cents":1,"\\u0063ents":100000}',
    "a member twice, deep inside": '{"a":[{"b":1,"b":2}]}',
    "a lone surrogate": '{"to":"\\ud800"}',
    "a lone surrogate as a name": '{"\\udfff":1}',
    "surrogates the wrong way round": '{"to":"\\udc00\\ud800"}',
    "no object": "[1]",
    "a comment": '{"a":1/**/}',
    "a trailing comma": '{"a":1,}',
}


@pytest.mark.parametrize("which", AMBIGUOUS)
async def test_arguments_with_more_than_one_meaning_open_nothing(stage: Stage, which: str) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    asked = json.dumps(
        {"v": 1, "parent": root["step"], "server": "ledger", "tool": "note", "args": {"here": 1}}
    )
    body = asked.replace('{"here": 1}', AMBIGUOUS[which]).encode()
    refused(stage, await chat.post("/v1/steps", body), "invalid_arguments", "invalid_request")
    assert not stage.happened(root["txn"], "step.opened")
    (await chat.post("/v1/steps", asked.encode())).ok()


async def test_bytes_that_are_not_utf_8_open_nothing(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    asked = json.dumps(
        {"v": 1, "parent": root["step"], "server": "ledger", "tool": "note", "args": {"here": "x"}}
    )
    for raw in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80"):
        body = asked.encode().replace(b'"x"', b'"' + raw + b'"')
        refused(stage, await chat.post("/v1/steps", body), "invalid_arguments", "invalid_request")
    (await chat.post("/v1/steps", asked.encode())).ok()


async def test_a_member_twice_outside_the_arguments_opens_nothing(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    asked = json.dumps({"v": 1, "parent": root["step"], "server": "ledger", "tool": "note", "args": {}})
    twice = asked[:-1] + ', "tool": "wipe"}'
    refused(stage, await chat.post("/v1/steps", twice.encode()), "invalid_arguments", "invalid_request")
    (await chat.post("/v1/steps", asked.encode())).ok()


@pytest.mark.parametrize(
    ("sent", "same"), [({"n": 1}, {"n": 1.0}), ({"n": 0}, {"n": -0.0}), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
)
async def test_equal_values_are_equal_however_they_are_written(
    stage: Stage, sent: dict[str, Any], same: dict[str, Any]
) -> None:
    opened, ledger = await stage.opened("ledger/note", args=sent), await stage.actor("mcp-server/ledger")
    (await ledger.json(f"/v1/steps/{opened.step}/accept", accept_body(opened, args=same))).ok()


async def test_the_arguments_of_one_step_are_no_use_for_another(stage: Stage) -> None:
    one = await stage.opened(args={"to": "bob", "cents": 1})
    two = await stage.opened(args={"to": "bob", "cents": 100_000})
    ledger = await stage.actor("mcp-server/ledger")
    mixed = Opened(step=two.step, txn=two.txn, token=one.token, args=two.args, by=two.by)
    told = await ledger.accept(mixed)
    refused(stage, told, "invalid_request", "arguments_changed", "invalid_token")
    for opened in (one, two):
        (await ledger.accept(opened)).ok()


async def test_the_token_of_a_step_names_its_arguments_by_digest_only(stage: Stage) -> None:
    import base64

    opened = await stage.opened(args={**ARGS, "secret": f"canary-{new()}"})
    claims = base64.urlsafe_b64decode(opened.token.split(".")[1] + "==").decode()
    assert args_digest(dict(opened.args)) in claims
    assert "canary" not in claims
