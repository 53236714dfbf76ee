"""Introspection asks what redeem would say; revocation ends the caller's own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import pytest
from tests.flows.rig import AGENT, AUDIENCE, BANK, FILES, FOREIGN, MAIL, OPS, Rig
from tests.flows.test_opening import revoke
from tests.flows.test_performing import close

from stepwrit.digest import b64u
from stepwrit.wire import WaitRequest
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem, Unavailable
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows import performing
from stepwrit_broker.flows.issue import Issued
from stepwrit_broker.flows.tokens import introspect, revoke_token
from stepwrit_broker.ports import InForce

Deed = Callable[[Rig, Issued], Awaitable[object]]


async def issued(rig: Rig) -> Issued:
    return await rig.credential(await rig.accepted())


def caller(rig: Rig, who: SpiffeId) -> Caller:
    return rig.caller(who, key=False)


async def ask(rig: Rig, token: str, who: SpiffeId = BANK) -> Mapping[str, object] | None:
    return await introspect(rig.house, caller(rig, who), token)


async def end(rig: Rig, token: str, who: SpiffeId) -> object:
    return await revoke_token(rig.house, caller(rig, who), token, rig.op(), "d")


async def test_whom_it_concerns_gets_the_stored_claims_and_nothing_is_written(rig: Rig) -> None:
    made = await issued(rig)
    before = rig.entries()
    for who in (BANK, MAIL, OPS):
        assert await ask(rig, made.credential, who) == json.loads(made.record.grant.claims)
    assert rig.entries() == before
    assert await rig.spend(made.credential)


@pytest.mark.parametrize("who", [AGENT, FILES, FOREIGN])
async def test_others_get_nothing_and_are_on_record(rig: Rig, who: SpiffeId) -> None:
    made = await issued(rig)
    assert await ask(rig, made.credential) is not None
    assert await ask(rig, made.credential, who) is None
    last = rig.entries("refused")[-1]
    assert (last["caller"], last["verb"], last["grant"]) == (who, "introspect", made.record.grant.id)


async def test_another_tenants_operator_is_a_stranger(rig: Rig) -> None:
    made = await issued(rig)
    theirs = caller(rig, OPS)
    assert await introspect(rig.house, theirs, made.credential) is not None
    theirs = replace(theirs, entry=replace(theirs.entry, tenant="evil"))
    assert await introspect(rig.house, theirs, made.credential) is None


async def _nothing(_: Rig, __: Issued) -> None:
    return


async def _spend(rig: Rig, made: Issued) -> None:
    await rig.spend(made.credential)


async def _close(rig: Rig, made: Issued) -> None:
    await close(rig, made.step.id)


async def _wait(rig: Rig, made: Issued) -> None:
    await performing.wait(rig.house, caller(rig, MAIL), made.step.id, WaitRequest(round=1), rig.op(), "d")


def _mark(target: Callable[[Issued], str]) -> Deed:
    async def deed(rig: Rig, made: Issued) -> None:
        await revoke(rig, target(made))

    return deed


def _time(seconds: float) -> Deed:
    async def deed(rig: Rig, _: Issued) -> None:
        rig.clock.advance(seconds)

    return deed


DEEDS: dict[str, tuple[Deed, bool]] = {
    "nothing": (_nothing, True),
    "a second before its end": (_time(58), True),
    "while its step waits": (_wait, True),
    "spent": (_spend, False),
    "closed": (_close, False),
    "too late": (_time(60), False),
    "revoked by itself": (_mark(lambda made: f"grant:{made.record.grant.id}"), False),
    "revoked with its step": (_mark(lambda made: f"step:{made.step.id}"), False),
    "revoked with its parent": (_mark(lambda made: f"step:{made.step.ancestors[0]}"), False),
    "revoked with its tool": (_mark(lambda _: "tool:mail/pay"), False),
    "revoked with its server": (_mark(lambda _: "server:mail"), False),
    "revoked with its resource": (_mark(lambda _: f"resource:{AUDIENCE}"), False),
    "revoked with its key": (_mark(lambda made: f"key:{made.record.grant.jkt}"), False),
    "revoked with its tenant": (_mark(lambda _: "tenant:acme"), False),
    "revoked with the domain": (_mark(lambda _: "trust_domain:example.test"), False),
    "revoked with a pattern": (_mark(lambda _: "workload:spiffe://example.test/mcp/*"), False),
    "revoked with everything": (_mark(lambda _: "everything:all"), False),
}


@pytest.mark.parametrize(("deed", "live"), DEEDS.values(), ids=DEEDS.keys())
async def test_introspection_says_what_redeem_does(rig: Rig, deed: Deed, live: bool) -> None:
    made = await issued(rig)
    assert await ask(rig, made.credential) is not None
    await deed(rig, made)
    assert (await ask(rig, made.credential) is not None) is live
    try:
        await rig.spend(made.credential)
        redeems = True
    except Problem:
        redeems = False
    assert redeems is live


async def test_a_lost_heartbeat_and_an_ended_transaction_end_it(rig: Rig) -> None:
    made = await issued(rig)
    assert await ask(rig, made.credential) is not None
    rig.settings.limits = replace(rig.settings.limits, lives=replace(rig.settings.limits.lives, lost_s=5.0))
    rig.clock.advance(6)
    assert await ask(rig, made.credential) is None


async def test_a_row_that_is_gone_is_inactive(rig: Rig) -> None:
    made, state = await issued(rig), rig.store._state
    assert await ask(rig, made.credential) is not None

    def drop_step(conn: sqlite3.Connection) -> None:
        state.steps.forget(made.step.id)
        conn.execute("DELETE FROM steps WHERE id = ?", (made.step.id,))

    def drop_grant(conn: sqlite3.Connection) -> None:
        state.grants.forget(made.record.grant.id)
        conn.execute("DELETE FROM grants WHERE id = ?", (made.record.grant.id,))

    await rig.store.within(drop_step)
    assert await ask(rig, made.credential) is None
    await rig.store.within(drop_grant)
    assert await ask(rig, made.credential) is None
    assert await end(rig, made.credential, MAIL) is None


async def test_doubt_is_not_inactive(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await issued(rig)
    assert await ask(rig, made.credential) is not None

    def doubt() -> InForce:
        raise Unavailable("unavailable", "no limits", rule="limits")

    asking = caller(rig, BANK)
    monkeypatch.setattr(rig.settings, "now_in_force", doubt)
    with pytest.raises(Unavailable):
        await introspect(rig.house, asking, made.credential)


async def test_the_performer_ends_its_own_once(rig: Rig) -> None:
    made = await issued(rig)
    for stranger in (BANK, AGENT, OPS, FOREIGN):
        assert await end(rig, made.credential, stranger) is None
    assert await ask(rig, made.credential) is not None
    assert await end(rig, made.credential, MAIL) is not None
    assert await ask(rig, made.credential) is None
    assert await end(rig, made.credential, MAIL) is None
    assert [each["target"] for each in rig.entries("mark.set")] == [f"grant:{made.record.grant.id}"]


async def test_a_frozen_credential_can_still_be_ended(rig: Rig) -> None:
    made = await issued(rig)
    await revoke(rig, f"grant:{made.record.grant.id}", "freeze")
    assert await end(rig, made.credential, MAIL) is not None
    assert rig.store.marks()[f"grant:{made.record.grant.id}"].verb == "revoke"


async def test_the_initiator_ends_the_step_that_its_token_names(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    assert await end(rig, ready.token, MAIL) is None
    assert await end(rig, ready.token, AGENT) is not None
    assert rig.entries("mark.set")[-1]["target"] == f"step:{ready.record.step.id}"
    assert await end(rig, ready.token, AGENT) is None, "it is marked already"
    await rig.store.reap(rig.clock.time)
    assert await end(rig, ready.token, AGENT) is None, "it has ended"
    assert len(rig.entries("mark.set")) == 1


async def test_a_dead_token_ends_nothing(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    made = await issued(rig)
    rig.clock.advance(120)
    assert await end(rig, ready.token, AGENT) is None
    assert await end(rig, made.credential, MAIL) is None
    assert rig.entries("mark.set") == []


def _jws(header: object) -> str:
    return f"{b64u(json.dumps(header).encode())}.e30.AA"


@pytest.mark.parametrize(
    ("token", "is_another_kind"),
    [
        ("stp_100" + "0" * 26, True),
        ("grt_100" + "0" * 26, True),
        (_jws({"alg": "ES256"}), True),
        (_jws({"alg": "ES256", "typ": "JWT"}), True),
        (_jws({"alg": "ES256", "typ": "dpop+jwt"}), True),
        (_jws({"alg": "ES256", "typ": "at+jwt"}), False),
        (_jws({"alg": "ES256", "typ": "txntoken+jwt"}), False),
        (_jws({"alg": "ES256", "typ": 7}), False),
        (_jws({"typ": "JWT"}), False),
        (_jws(["alg"]), False),
        (_jws({"alg": "ES256", "x": "y" * 3000}), False),
        ("!.e30.AA", False),
        (".e30.AA", False),
        ("a.b", False),
        ("stp_", False),
        ("", False),
    ],
)
async def test_only_what_is_surely_of_another_kind_is_unsupported(
    rig: Rig, token: str, is_another_kind: bool
) -> None:
    if not is_another_kind:
        assert await end(rig, token, MAIL) is None
        return
    with pytest.raises(Malformed) as no:
        await end(rig, token, MAIL)
    assert no.value.code == "unsupported_token_type"
