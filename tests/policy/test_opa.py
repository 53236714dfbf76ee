"""The OPA adapter against a server that is slow, wrong, forgetful or gone: never a permit, always typed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.policy.bad_opa import EMPTY, BadOpa, bad_opa
from tests.policy.world import Scene, opening

from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.core.obligations import EVERY_FACT, Obligation
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Verdict
from stepwrit_broker.policy.files import compile_policy, load
from stepwrit_broker.policy.opa import Opa, OpaEngine
from stepwrit_broker.policy.opa_http import OpaServer

LOW = Scene(origin="model", impact="low")
FILES = {"a.rego": 'package stepwrit\npermit contains "yes"\n', "facts.json": '{"amount": "Long"}'}
YES = {**EMPTY, "permit": ["yes"]}
FORBID = {"id": "no", "reason": "not today"}
WAIT = {"id": "ask", "setting": "policy/a.rego"}
TELL = {"id": "yes", "name": "tell_owner", "value": "x"}


class Bench:
    """A server, an engine on it, a clock that only we move, and what was heard."""

    def __init__(self, server: BadOpa) -> None:
        self.server, self.now, self.heard = server, 100.0, list[tuple[str, bool]]()
        settings = OpaServer(url=server.url, timeout_s=5.0, failures=3, open_s=2.0)
        self.opa = Opa(settings, lambda: self.now, self._hear)
        made = compile_policy(load(FILES).doc, 7, self.opa)
        assert isinstance(made, OpaEngine)
        self.engine = made

    def _hear(self, outcome: str, seconds: float, *, is_open: bool) -> None:
        assert seconds >= 0
        self.heard.append((outcome, is_open))

    async def decide(self, scene: Scene = LOW) -> Verdict:
        return await self.engine.decide(opening(scene))

    async def refused(self) -> Unavailable:
        with pytest.raises(Unavailable) as caught:
            await self.decide()
        assert caught.value.rule == "policy"
        assert caught.value.retry_after
        return caught.value


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with bad_opa() as server:
        server.answers = YES
        made = Bench(server)
        assert isinstance(await made.decide(), Permit)
        yield made
        await made.opa.aclose()


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ({}, Permit(policies=("yes",))),
        ({"permit": ["b", "a"]}, Permit(policies=("a", "b"))),
        ({"permit": []}, Deny(policies=(), reason="no policy permits this")),
        ({"forbid": [FORBID]}, Deny(policies=("no",), reason="not today")),
        ({"forbid": [FORBID], "needs_approval": [WAIT]}, Deny(policies=("no",), reason="not today")),
        ({"needs_approval": [WAIT]}, NeedsApproval(policies=("ask",), setting="policy/a.rego")),
        (
            {"needs_approval": [{**WAIT, "id": "z", "approvers": ["c", "b"], "signatures": 2}, WAIT]},
            NeedsApproval(
                policies=("ask", "z"),
                setting="policy/a.rego",
                terms=(Terms(), Terms(count=2, persons=frozenset({"b", "c"}), requester=False)),
            ),
        ),
        ({"permit": [], "needs_approval": [WAIT]}, Deny(policies=(), reason="no policy permits this")),
        (
            {"obligation": [TELL]},
            Deny(
                policies=("yes",),
                reason="a policy asks for something that is not known here",
                redact=frozenset({EVERY_FACT}),
            ),
        ),
    ],
)
async def test_the_sets_are_combined_as_cedars_policies_are(
    bench: Bench, answers: dict[str, object], verdict: Verdict
) -> None:
    bench.server.answers = {**YES, **answers}
    assert await bench.decide() == verdict


async def test_a_known_obligation_is_handed_on(bench: Bench) -> None:
    bench.server.answers = {**YES, "obligation": [TELL, {**TELL, "name": "max_life", "value": "60"}]}
    assert isinstance(await bench.decide(), Deny)
    bench.server.answers = {**YES, "obligation": [{**TELL, "name": "max_life", "value": "60"}]}
    assert await bench.decide() == Permit(
        policies=("yes",), obligations=(Obligation("max_life", "60", "yes"),)
    )


async def test_a_policy_that_redacts_and_errs_keeps_no_fact_of_the_refusal(bench: Bench) -> None:
    text = 'package stepwrit\nobligation contains {"id": "a", "name": "redact", "value": "amount"}\n'
    redacting = compile_policy(load({**FILES, "b.rego": text}).doc, 7, bench.opa)
    bench.server.reply = lambda _method, _path, _body: (500, b'{"errors": [{"code": "eval_builtin_error"}]}')
    plain, hidden = await bench.decide(), await redacting.decide(opening(LOW))
    assert isinstance(plain, Deny)
    assert isinstance(hidden, Deny)
    assert (plain.redact, hidden.redact) == (frozenset(), {EVERY_FACT})


WRONG = {
    "not JSON": b"<html>",
    "a list": b"[]",
    "a permit that is no set": {"result": {**YES, "files": ["a.rego"], "permit": True}},
    "an unknown member": {"result": {**YES, "files": ["a.rego"], "allow": True}},
    "a missing member": {"result": {"permit": ["yes"], "files": ["a.rego"]}},
    "a forbid with more": {"result": {**YES, "files": ["a.rego"], "forbid": [{**FORBID, "x": 1}]}},
    "a reason that is no sentence": {
        "result": {**YES, "files": ["a.rego"], "forbid": [{**FORBID, "reason": "<b>"}]}
    },
    "a setting that is no sentence": {
        "result": {**YES, "files": ["a.rego"], "needs_approval": [{**WAIT, "setting": "\u202e"}]}
    },
    **{
        f"terms: {json.dumps(terms)}": {
            "result": {**YES, "files": ["a.rego"], "needs_approval": [{**WAIT, **terms}]}
        }
        for terms in (
            {"signatures": 2},
            {"signatures": "2", "approvers": ["b", "c"]},
            {"signatures": 1.5, "approvers": ["b", "c"]},
            {"signatures": True, "approvers": ["b", "c"]},
            {"signatures": 10**30, "approvers": ["b", "c"]},
            {"approvers": "b"},
            {"approvers": ["B"]},
            {"approvers": ["b", "b"]},
            {"approvers": [], "requester": "may not sign"},
            {"approvers": ["b"], "requester": "never"},
            {"approvers": ["b"], "requester": 1},
            {"approver": ["b"]},
        )
    },
    "an id that is none": {"result": {**YES, "files": ["a.rego"], "permit": ["Yes, please"]}},
    "a file that is missing": {"result": {**YES, "files": []}},
    "a boolean": {"result": True},
    "too deep": b"[" * 100_000,
    "too much": b'{"result": "' + b"a" * 1_100_000 + b'"}',
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
async def test_an_answer_of_another_shape_is_doubt(bench: Bench, body: object) -> None:
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    bench.server.reply = lambda _method, _path, _body: (200, said)
    await bench.refused()
    assert bench.heard[-1][0] in {"shape", "undefined", "too_large"}


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500, 503])
async def test_any_other_status_is_doubt(bench: Bench, status: int) -> None:
    whole = json.dumps({"result": {**YES, "files": ["a.rego"]}}).encode()
    bench.server.reply = lambda _method, _path, _body: (status, whole)
    await bench.refused()
    assert bench.heard[-1] == (f"status_{status}", False)


async def test_a_policy_that_errs_denies_and_is_no_fault_of_the_server(bench: Bench) -> None:
    said = json.dumps({"code": "internal_error", "errors": [{"code": "eval_builtin_error"}]}).encode()
    bench.server.reply = lambda _method, _path, _body: (500, said)
    for _ in range(5):
        assert await bench.decide() == Deny(policies=(), reason="no policy permits this")
    bench.server.reply = lambda _method, _path, _body: None
    assert isinstance(await bench.decide(), Permit)


async def test_silence_ends_with_the_time_that_is_given() -> None:
    async with bad_opa() as server:
        server.answers = YES
        opa = Opa(OpaServer(url=server.url, timeout_s=0.05), asyncio.get_running_loop().time)
        engine = compile_policy(load(FILES).doc, 7, opa)
        server.silent = True
        with pytest.raises(Unavailable) as caught:
            await engine.decide(opening(LOW))
        assert caught.value.rule == "policy"
        await opa.aclose()


async def test_a_server_that_restarted_is_given_the_policy_again(bench: Bench) -> None:
    await bench.server.stop()
    await bench.refused()
    await bench.server.start()
    many = await asyncio.gather(*(bench.decide() for _ in range(8)))
    assert all(isinstance(each, Permit) for each in many)
    pushes = [path for method, path, _, _ in bench.server.asked if method == "PUT"]
    assert len(pushes) == 2, "once at first, once after the restart, for all who asked"


async def test_a_server_that_keeps_nothing_is_doubt(bench: Bench) -> None:
    bench.server.known.clear()
    bench.server.reply = lambda method, _path, _body: (200, b"{}") if method == "POST" else None
    await bench.refused()
    assert bench.heard[-1][0] == "undefined"


async def test_a_policy_that_the_server_no_longer_takes_is_doubt(bench: Bench) -> None:
    bench.server.known.clear()
    bench.server.reply = lambda method, _path, _body: (400, b"{}") if method == "PUT" else None
    await bench.refused()
    assert bench.heard[-1][0] == "compile"


async def test_the_breaker_spares_a_server_that_fails_and_tries_one_question_later(bench: Bench) -> None:
    bench.server.reply = lambda _method, _path, _body: (503, b"")
    for _ in range(3):
        await bench.refused()
    assert bench.heard[-1] == ("status_503", True)
    asked = len(bench.server.asked)
    assert (await bench.refused()).retry_after == pytest.approx(2.0)
    assert len(bench.server.asked) == asked, "an open breaker asks nobody"
    bench.now += 2.0
    await bench.refused()
    assert len(bench.server.asked) == asked + 1, "one is let through"
    await bench.refused()
    assert len(bench.server.asked) == asked + 1
    bench.server.reply = lambda _method, _path, _body: None
    bench.now += 2.0
    assert isinstance(await bench.decide(), Permit)
    assert bench.heard[-1] == ("ok", False)
    assert isinstance(await bench.decide(), Permit)


async def test_connections_are_kept(bench: Bench) -> None:
    for _ in range(5):
        assert isinstance(await bench.decide(), Permit)
    assert bench.server.connections == 1


async def test_the_document_is_asked_without_nulls_and_with_declared_facts_only(bench: Bench) -> None:
    scene = replace(LOW, facts=(("amount", 5), ("other", "x")))
    assert isinstance(await bench.decide(scene), Permit)
    asked = json.loads(bench.server.queries()[-1])["input"]
    assert asked["facts"] == {"amount": 5}
    assert asked["origin"] == "model"
    assert asked["principal"] == asked["initiator"]["id"]
    assert "approval" not in asked
    assert "attested_by" not in asked["performer"]
    bad = await bench.decide(replace(LOW, facts=(("amount", "5"),)))
    assert bad == Deny(policies=(), reason="a fact of the arguments is not of its declared type")


async def test_a_token_is_sent_and_shown_nowhere(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    server = OpaServer(url=bench.server.url, token_file=tmp_path / "token", timeout_s=5)
    opa = Opa(server, lambda: 0.0)
    assert isinstance(await compile_policy(load(FILES).doc, 7, opa).decide(opening(LOW)), Permit)
    assert bench.server.asked[-1][3]["authorization"] == "Bearer s3cret"
    bench.server.reply = lambda _method, _path, _body: (401, b"")
    with pytest.raises(Unavailable) as caught:
        await compile_policy(load(FILES).doc, 7, opa).decide(opening(LOW))
    assert "s3cret" not in f"{server!r} {opa!r} {opa._http!r} {caught.value!r} {caught.value.__cause__!r}"
    await opa.aclose()


async def test_rego_without_a_server_is_refused_before_it_is_stored_and_permits_nothing() -> None:
    engine = compile_policy(load(FILES).doc, 7)
    assert isinstance(engine, OpaEngine)
    with pytest.raises(Malformed, match=r"broker\.toml \[opa\]"):
        await engine.prove()
    with pytest.raises(Unavailable) as caught:
        await engine.decide(opening(LOW))
    assert caught.value.rule == "policy"


async def test_a_server_that_cannot_prove_a_policy_is_doubt(bench: Bench) -> None:
    await bench.engine.prove()
    for status in (401, 500):
        bench.server.reply = lambda _method, _path, _body, status=status: (status, b"")  # type: ignore[misc]
        with pytest.raises(Unavailable):
            await bench.engine.prove()


async def test_what_the_compiler_says_is_told_of_the_file(bench: Bench) -> None:
    await bench.engine.prove()
    error = {"message": "var x is unsafe", "location": {"row": 3}}
    said = json.dumps({"errors": [error, {"message": "no place"}, 7]}).encode()
    bench.server.reply = lambda _method, _path, _body: (400, said)
    with pytest.raises(Malformed) as caught:
        await bench.engine.prove()
    assert caught.value.reason.splitlines()[1:] == ["a.rego:2: var x is unsafe", "policy: no place"]
    bench.server.reply = lambda _method, _path, _body: (400, b"?")
    with pytest.raises(Malformed, match="does not take it"):
        await bench.engine.prove()
