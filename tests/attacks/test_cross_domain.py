"""Chains between two trust domains: each side believes its own registry, and little of the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from tests.fakes.stage import LIMITS, Stage, refused
from tests.fakes.two import AWAY, AWAY_ISSUER, HOME, HOME_ISSUER, SEND, Abroad, Two

from stepwrit._transport import HttpTransport
from stepwrit.digest import b64u, canonical
from stepwrit.jws import SigningKey
from stepwrit_broker.core.persons import Identity


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncGenerator[Two]:
    async with Two() as made:
        yield made


@pytest.fixture
def broker_stage(running: Two) -> Stage:
    return running.home


@pytest.fixture
def two(running: Two, stage: Stage) -> Two:
    assert stage is running.home
    running.away.forget_refusals()
    return running


async def test_a_step_crosses_and_both_ledgers_hold_the_grants_digest(two: Two) -> None:
    crossing = await two.crossing()
    landed = await two.landed(crossing)
    vault = await two.away.actor("mcp-server/vault")
    assert (await vault.accept(landed)).ok()["origin"] == "server"
    (out,) = two.home.happened(crossing.opened.txn, "grant.issued")
    (into,) = two.away.happened(landed.txn, "intent.opened")
    assert out.facts is not None
    assert into.facts is not None
    assert out.facts["export"]["digest"] == into.facts["upstream"]["digest"]
    assert into.facts["upstream"]["issuer"] == HOME_ISSUER
    assert into.facts["origin"] == "server"
    assert into.facts["upstream"]["claims"]["origin"] == "model"


# --- at home: whose step goes away, and how often


async def test_a_step_is_granted_once_and_a_repeat_is_the_same_grant(two: Two) -> None:
    opened = await two.opened()
    first = (await two.export(opened.step, op="one-and-the-same")).ok()
    again = (await two.export(opened.step, op="one-and-the-same")).ok()
    assert first["access_token"].split(".")[1] == again["access_token"].split(".")[1]
    assert first["issued_token_type"] == "urn:ietf:params:oauth:token-type:id-jag"
    assert first["token_type"] == "N_A"
    refused(two.home, await two.export(opened.step), "replay")


async def test_only_the_initiator_by_its_key_takes_a_step_away(two: Two) -> None:
    opened = await two.opened()
    other = await two.home.actor("agent/other")
    refused(two.home, await two.export(opened.step, other), "not_found")
    refused(two.home, await two.export(opened.step, opened.by.with_new_key()), "invalid_proof")
    (await two.export(opened.step)).ok()


async def test_only_a_foreign_servers_step_goes_and_only_to_its_own_broker(two: Two) -> None:
    near = await two.opened("ledger/note")
    refused(two.home, await two.export(near.step), "invalid_target")
    far = await two.opened()
    refused(two.home, await two.export(far.step, audience=HOME_ISSUER), "invalid_target")
    refused(two.home, await two.export(far.step, resource=AWAY_ISSUER), "invalid_target")
    refused(two.home, await two.export(far.step, scope="vault"), "invalid_scope")
    (await two.export(far.step)).ok()
    later = await two.opened(deferred=True)
    refused(two.home, await two.export(later.step), "not_yet_supported")


@pytest.mark.parametrize("target", ["step", "txn", "issuer", "resource", "trust_domain"])
async def test_what_is_stopped_at_home_is_granted_no_more(two: Two, target: str) -> None:
    (await two.export((await two.opened()).step)).ok()
    opened = await two.opened()
    name = {"step": opened.step, "txn": opened.txn, "trust_domain": AWAY}.get(target, AWAY_ISSUER)
    (await two.home.mark("freeze", f"{target}:{name}")).ok()
    refused(two.home, await two.export(opened.step), "frozen")
    (await two.home.mark("unfreeze", f"{target}:{name}")).ok()
    (await two.export(opened.step)).ok()


async def test_the_initiator_hears_of_a_revocation_at_home_and_the_step_ends(two: Two) -> None:
    crossing = await two.crossing()
    chat = await two.home.actor("agent/chat")
    assert (await chat.heartbeat(crossing.opened.step)).ok()["state"] == "accepted"
    (await two.home.mark("revoke", f"step:{crossing.opened.step}")).ok()
    refused(two.home, await chat.heartbeat(crossing.opened.step), "revoked")


async def test_the_foreign_performer_takes_no_step_of_ours(two: Two) -> None:
    opened = await two.opened()
    vault = await two.away.actor("mcp-server/vault")
    way = HttpTransport(two.home.url, await two.away.identity("mcp-server/vault"), two.home.broker_id)
    try:
        there = Abroad(stage=two.home, path=vault.path, key=vault.key, home=two.away, way=way)
        refused(two.home, await there.accept(opened), "wrong_workload")
        later = await two.opened(deferred=True)
        refused(two.home, await there.json(f"/v1/steps/{later.step}/resume", {"v": 1}), "wrong_workload")
    finally:
        await way.close()
    (await two.export(opened.step)).ok()


async def test_no_person_crosses_unless_the_registry_names_the_peer(two: Two) -> None:
    said = (await two.crossing()).claims
    assert "sub_id" not in said
    assert "alice" not in str(said)
    requester = two.home.happened(said["https://stepwrit.dev/step"]["txn"], "intent.opened")[0]
    assert requester.facts is not None
    assert said["sub"].startswith("per_")
    two.home_peer["person_claims"] = True
    await two.register()
    named = (await two.crossing()).claims
    assert (named["sub_id"]["format"], named["sub_id"]["sub"]) == ("iss_sub", "alice")
    assert named["sub"] == said["sub"], "one name for one person, of this peer's alone"
    two.home_peer["person_claims"] = False
    await two.register()


# --- over there: what a grant has to be


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": HOME_ISSUER},
        {"aud": [AWAY_ISSUER, HOME_ISSUER]},
        {"aud": f"{AWAY_ISSUER}/"},
        {"iss": AWAY_ISSUER},
        {"iss": f"{HOME_ISSUER}/"},
        {"iss": "https://broker.third.test"},
        {"client_id": f"spiffe://{HOME}/agent/other"},
        {"cnf": {"jkt": "A" * 43}},
        {"cnf": {}},
        {"exp": 1, "iat": 0},
        {"exp": 99_999_999_999},
        {"iat": 99_999_999_000, "exp": 99_999_999_010},
        {"sub_id": {"format": "email", "email": "a@b.example"}},
        {"authorization_details": []},
        {"act": {}},
    ],
)
async def test_a_grant_that_says_anything_else_starts_nothing(two: Two, claims: dict[str, object]) -> None:
    (await two.arrives(two.forged(await two.crossing()))).ok()
    entry = refused(two.away, await two.arrives(two.forged(await two.crossing(), **claims)), "invalid_grant")
    assert entry.facts is not None


@pytest.mark.parametrize("typ", ["at+jwt", "txntoken+jwt", "jwt", "JWT", "oauth-id-jag", "secevent+jwt"])
async def test_a_token_of_another_type_is_no_grant(two: Two, typ: str) -> None:
    crossing = await two.crossing()
    refused(two.away, await two.arrives(two.forged(crossing, typ=typ)), "invalid_grant")
    (await two.arrives(crossing)).ok()


async def test_keys_are_the_peers_own_and_nobody_elses(two: Two) -> None:
    crossing = await two.crossing()
    kid = two.home.broker.housed.rings[2].signing_key(two.home.now()).kid
    for key in (SigningKey.generate(kid=kid), SigningKey.generate(), crossing.opened.by.key):
        refused(two.away, await two.arrives(two.forged(crossing, key=key)), "invalid_grant")
    own = two.away.broker.housed.rings[2].signing_key(two.away.now())
    refused(two.away, await two.arrives(two.forged(crossing, key=own)), "invalid_grant")
    (await two.arrives(crossing)).ok()


async def test_a_header_that_brings_its_own_key_is_not_read(two: Two) -> None:
    crossing = await two.crossing()
    mine = SigningKey.generate()
    embedded = mine.sign("oauth-id-jag+jwt", crossing.claims, embed_jwk=True)
    refused(two.away, await two.arrives(embedded), "invalid_grant")
    head = b64u(
        canonical({"alg": "ES256", "typ": "oauth-id-jag+jwt", "kid": "x", "jku": "https://evil.test/"})
    )
    refused(two.away, await two.arrives(f"{head}.{crossing.grant.split('.', 1)[1]}"), "invalid_grant")
    (await two.arrives(crossing)).ok()


async def test_a_grant_starts_one_root_of_sixteen_at_once(two: Two) -> None:
    crossing = await two.crossing()
    replies = await asyncio.gather(*(two.arrives(crossing) for _ in range(16)))
    assert [reply.status for reply in replies].count(200) == 1
    assert {reply.code for reply in replies if reply.status != 200} == {"replay"}
    assert {reply.body["error"] for reply in replies if reply.status != 200} == {"invalid_grant"}
    await two.restart_away()
    refused(two.away, await two.arrives(crossing), "replay")


async def test_a_stolen_grant_opens_nothing_for_the_thief(two: Two) -> None:
    crossing = await two.crossing()
    thief = await two.abroad("agent/other")
    refused(two.away, await two.arrives(crossing, thief), "invalid_grant")
    new_key = await two.abroad("agent/chat", SigningKey.generate())
    refused(two.away, await two.arrives(crossing, new_key), "invalid_grant")
    (await two.arrives(crossing)).ok()


async def test_a_peer_speaks_for_its_own_domain_alone(two: Two) -> None:
    crossing = await two.crossing()
    native = await two.away.actor("mcp-server/vault")
    said = {"client_id": native.id, "cnf": {"jkt": native.key.thumbprint}}
    refused(two.away, await two.arrives(two.forged(crossing, **said), native), "wrong_workload")
    (await two.arrives(crossing)).ok()


# --- over there: what it starts


@pytest.mark.parametrize("claimed", ["human", "model", "server"])
async def test_a_claimed_origin_never_rises_above_the_registrys(two: Two, claimed: str) -> None:
    crossing = await two.crossing()
    step = {**crossing.claims["https://stepwrit.dev/step"], "origin": claimed}
    forged = two.forged(crossing, **{"https://stepwrit.dev/step": step})
    root = (await two.arrives(forged)).ok()
    assert root["origin"] == "server"
    chat = await two.abroad()
    assert (await chat.open_reply(root["step"], "vault/read", args=SEND)).ok()["origin"] == "server"


async def test_a_model_is_one_there_only_where_the_registry_says_so(two: Two) -> None:
    two.away_peer["max_origin"] = "model"
    await two.register()
    chat = await two.abroad()
    model = (await two.arrives(await two.crossing())).ok()
    assert model["origin"] == "model"
    assert (await chat.open_reply(model["step"], "vault/read", args=SEND)).ok()["origin"] == "model"
    server = (await two.arrives(await two.crossing(await two.by_server()))).ok()
    assert server["origin"] == "server", "the claimed one is the lower"
    two.away_peer["max_origin"] = "server"
    await two.register()


async def test_a_root_is_for_the_granted_action_alone_and_for_one_step(two: Two) -> None:
    root = (await two.arrives(await two.crossing())).ok()
    chat = await two.abroad()
    refused(two.away, await chat.open_reply(root["step"], "vault/dim", args=SEND), "ceiling")
    refused(two.away, await chat.open_reply(root["step"], "books/note", args=SEND), "ceiling")
    other = {**SEND, "cents": 6}
    refused(two.away, await chat.open_reply(root["step"], "vault/read", args=other), "arguments_changed")
    (await chat.open_reply(root["step"], "vault/read", args=SEND)).ok()
    refused(two.away, await chat.open_reply(root["step"], "vault/read", args=SEND), "replay")


async def test_what_the_peer_may_not_start_or_granted_for_less_is_refused(two: Two) -> None:
    (await two.arrives(await two.crossing())).ok()
    crossing = await two.crossing()
    (details,) = crossing.claims["authorization_details"]

    def asked(**changes: str) -> str:
        return two.forged(crossing, authorization_details=[{**details, **changes}])

    refused(two.away, await two.arrives(asked(tool="shut")), "ceiling")  # not among its may_start
    refused(two.away, await two.arrives(asked(tool="burn", impact="high")), "ceiling")  # above its impact
    refused(two.away, await two.arrives(asked(tool="dim")), "ceiling")  # granted as low, medium here
    refused(two.away, await two.arrives(asked(tool="nothing")), "not_registered")
    (await two.arrives(crossing)).ok()


async def test_what_the_step_there_starts_lies_in_the_peers_ceiling(two: Two) -> None:
    landed = await two.landed(await two.crossing())
    vault = await two.away.actor("mcp-server/vault")
    (await vault.accept(landed)).ok()
    (await vault.open_reply(landed.step, "books/note")).ok()
    refused(two.away, await vault.open_reply(landed.step, "vault/shut"), "ceiling")


@pytest.mark.parametrize("target", [f"issuer:{HOME_ISSUER}", f"trust_domain:{HOME}"])
async def test_a_stopped_peer_starts_nothing_and_what_it_started_stops(two: Two, target: str) -> None:
    landed, waiting = await two.landed(await two.crossing()), await two.crossing()
    vault = await two.away.actor("mcp-server/vault")
    (await vault.accept(landed)).ok()
    (await two.away.mark("freeze", target)).ok()
    refused(two.away, await two.arrives(waiting), "frozen")
    refused(two.away, await vault.open_reply(landed.step, "books/note"), "frozen")
    (await two.away.mark("unfreeze", target)).ok()
    (await vault.open_reply(landed.step, "books/note")).ok()
    (await two.arrives(waiting)).ok()


async def test_a_peer_that_left_the_registry_is_stopped_with_all_that_it_started(two: Two) -> None:
    landed, late = await two.landed(await two.crossing()), await two.crossing()
    vault = await two.away.actor("mcp-server/vault")
    (await vault.accept(landed)).ok()
    two.away.peers = []
    two.away.write_registry(two.away.entries)
    await two.away.broker.files.apply("registry")
    refused(two.away, await two.arrives(late), "invalid_grant", "frozen")
    refused(two.away, await vault.open_reply(landed.step, "books/note"), "frozen")
    await two.register()
    (await vault.open_reply(landed.step, "books/note")).ok()
    (await two.arrives(late)).ok()


async def test_a_peer_of_another_tenant_is_no_peer(two: Two) -> None:
    crossing = await two.crossing()
    entries = two.away.entries
    two.away.entries = [
        each for each in two.away.entries if each["name"] != "home-chat"
    ] + [{"id": f"spiffe://{HOME}/agent/chat", "role": "agent", "name": "home-chat", "tenant": "blue",
          "may_start": {"tools": [], "impact": "low"}}]  # fmt: skip
    await two.register()
    refused(two.away, await two.arrives(crossing), "invalid_grant")
    two.away.entries = entries
    await two.register()
    (await two.arrives(crossing)).ok()


async def test_a_persons_end_there_is_the_end_of_what_a_peer_started_for_them(two: Two) -> None:
    two.home_peer["person_claims"] = two.away_peer["person_claims"] = True
    await two.register()
    chat = await two.abroad()
    root = (await two.arrives(await two.crossing())).ok()
    person = two.away.broker.house.opaque(Identity(two.home.issuer.url, "alice"))
    (await two.away.mark("freeze", f"requester:{person}")).ok()
    refused(two.away, await chat.open_reply(root["step"], "vault/read", args=SEND), "frozen")
    (await two.away.mark("unfreeze", f"requester:{person}")).ok()
    opened = (await chat.open_reply(root["step"], "vault/read", args=SEND)).ok()
    (entry,) = [e for e in two.away.happened(opened["txn"], "intent.opened") if e.facts]
    assert entry.facts is not None
    assert entry.facts["requester"] == "", "they are nobody's requester there"
    two.home_peer["person_claims"] = two.away_peer["person_claims"] = False
    await two.register()


async def test_both_sides_limit_what_crosses(two: Two) -> None:
    (await two.arrives(await two.crossing())).ok()
    rate = "  - {name: abroad, on: ON, per: [peer], rate: 1/min, burst: 1}\n"
    for stage, on in ((two.away, "intents"), (two.home, "credentials")):
        head, tail = LIMITS.replace("count: 3", "count: 4").split("concurrency:")
        (await stage.apply("limits", f"{head}{rate.replace('ON', on)}concurrency:{tail}")).ok()
    first, second = await two.crossing(), await two.opened()
    refused(two.home, await two.export(second.step), "limit")
    (await two.arrives(first)).ok()
    (await two.home.apply("limits", LIMITS)).ok()
    third = await two.crossing()
    refused(two.away, await two.arrives(third), "limit")
    (await two.away.apply("limits", LIMITS)).ok()
    (await two.arrives(third)).ok()


async def test_what_is_no_step_or_not_asked_for_rightly_is_not_granted(two: Two) -> None:
    opened = await two.opened()
    refused(two.home, await two.export("a step"), "invalid_request")
    other = "urn:ietf:params:oauth:token-type:txn_token"
    refused(two.home, await two.export(opened.step, subject_token_type=other), "invalid_request")
    crossing = await two.crossing(opened)
    refused(two.away, await two.arrives(crossing, scope="vault"), "invalid_scope")
    refused(two.away, await two.arrives(""), "invalid_request")
    (await two.arrives(crossing)).ok()


async def test_only_who_acts_brings_grants(two: Two) -> None:
    crossing = await two.crossing()
    entries = two.away.entries
    others = [each for each in entries if each["name"] != "home-chat"]
    trigger = {"id": f"spiffe://{HOME}/agent/chat", "role": "trigger", "name": "home-chat", "owner": "x",
               "may_start": {"tools": ["vault/read"], "impact": "low"}}  # fmt: skip
    two.away.entries = [*others, trigger]
    await two.register()
    refused(two.away, await two.arrives(crossing), "origin_claimed")
    two.away.entries = entries
    await two.register()
    (await two.arrives(crossing)).ok()
