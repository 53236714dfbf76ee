"""Approvals signed by signing in anew at the development issuer, and every ID token that signs nothing."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx2
import jwt
import pytest
import pytest_asyncio
from tests.fakes.approver import ApprovalStage, Approver
from tests.fakes.visitor import CLIENT, REDIRECT, STRONG, idp_of, on_time, signed_in

from stepwrit.digest import b64u, body_digest, unb64u
from stepwrit_broker.approvals.oidc import OidcSignIns
from stepwrit_broker.core.errors import Conflict, Problem, Refused, Unproven
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.dev.oidc_code import DevClient
from stepwrit_broker.flows import approving, signing_in
from stepwrit_broker.flows.signing_in import Came, Going


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def approval_stage() -> AsyncGenerator[ApprovalStage]:
    async with ApprovalStage() as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient() as client:
        yield client


@pytest.fixture
def stage(approval_stage: ApprovalStage) -> ApprovalStage:
    approval_stage.forget_refusals()
    return approval_stage


@pytest.fixture
def idp(stage: ApprovalStage, http: httpx2.AsyncClient) -> OidcSignIns:
    return idp_of(stage, http)


def person(stage: ApprovalStage, name: str = "alice") -> Identity:
    return Identity(stage.issuer.url, name)


async def begun(stage: ApprovalStage, idp: OidcSignIns, name: str, who: str = "alice") -> Going:
    house = stage.broker.house
    return await signing_in.begin_signing(house, idp, person(stage, who), name, f"/approvals/{name}")


async def finished(stage: ApprovalStage, idp: OidcSignIns, going: Going, answer: dict[str, str]) -> Came:
    return await signing_in.finish(stage.broker.house, idp, going.sealed, answer)


async def signs(stage: ApprovalStage, idp: OidcSignIns, name: str, who: str = "alice") -> Came:
    going = await begun(stage, idp, name, who)
    return await finished(stage, idp, going, await signed_in(going.address, who))


async def still_asked(stage: ApprovalStage, name: str) -> bool:
    record = await stage.broker.house.approvals.approval(name)
    return record is not None and record.state == "asked" and not record.signed


async def fails(code: str, rule: str | None, came: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await came
    assert (caught.value.code, caught.value.rule) == (code, rule)
    return caught.value


# --- the right use


async def test_signing_in_anew_signs_exactly_this_and_the_step_goes_on(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    news = await stage.asked(args={"n": "right"})
    came = await signs(stage, idp, news["id"])
    assert came.record is not None
    assert (came.record.state, came.goes_to) == ("given", f"/approvals/{news['id']}")
    assert came.record.signed[0].method == "oidc"
    (await stage.polled(news)).ok()
    await _verified_offline(stage, news)


async def _verified_offline(stage: ApprovalStage, news: dict[str, Any]) -> None:
    """With the ledger, the document beside it and the issuer's key in the entry."""
    step = await stage.broker.house.store.step(news["step"])
    assert step is not None
    (asked,) = stage.happened(step.step.txn, "approval.asked")
    (signed,) = stage.happened(step.step.txn, "approval.signed")
    assert asked.facts
    assert signed.facts
    evidence: dict[str, Any] = signed.facts["evidence"]  # type: ignore[assignment]
    assert "alice" not in repr(signed.facts)
    kept = stage.broker.ledger.decision(str(signed.facts["decision"]))
    assert kept is not None
    token = str(kept["id_token"])
    assert body_digest(token.encode()) == evidence["id_token"]
    claims = jwt.decode(token, jwt.PyJWK(evidence["key"]), ["ES256"], audience=evidence["client_id"])
    record = await stage.broker.house.approvals.approval(news["id"])
    assert record is not None
    challenge = record.asked.challenge(unb64u(evidence["nonce"]))
    assert claims["nonce"] == b64u(challenge) == evidence["claim"]
    assert (claims["acr"], claims["auth_time"]) == (evidence["acr"], evidence["auth_time"])
    assert asked.facts["digest"] == record.asked.digest


async def test_signing_in_shows_who_it_is_and_since_when(stage: ApprovalStage, idp: OidcSignIns) -> None:
    going = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    came = await finished(stage, idp, going, await signed_in(going.address, "bob"))
    assert (came.who, came.goes_to, came.record) == (person(stage, "bob"), "/approvals", None)
    assert abs(came.auth_time - stage.now()) < 5


async def test_what_is_asked_of_the_provider(stage: ApprovalStage, idp: OidcSignIns) -> None:
    news = await stage.asked(args={"n": "asked"})
    going = await begun(stage, idp, news["id"])
    asked = dict(httpx2.URL(going.address).params)
    assert asked | {"state": "", "nonce": "", "code_challenge": ""} == {
        "response_type": "code", "client_id": CLIENT, "redirect_uri": REDIRECT, "scope": "openid",
        "state": "", "nonce": "", "code_challenge": "", "code_challenge_method": "S256",
        "prompt": "login", "max_age": "0",
        "acr_values": STRONG,
    }  # fmt: skip
    plain = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    shown = dict(httpx2.URL(plain.address).params)
    assert "acr_values" not in shown
    assert shown["max_age"] == "3600"
    assert len({asked["state"], shown["state"], asked["nonce"], shown["nonce"]}) == 4


# --- what the issuer signed is not what was asked


BAD: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "of a sign-in of an hour ago": ({"auth_age_s": 3600.0}, "invalid_proof", "auth_time"),
    "of a sign-in shortly before": ({"auth_age_s": 20.0}, "invalid_proof", "auth_time"),
    "of tomorrow": ({"auth_age_s": -90_000.0}, "human_proof", "auth_time"),
    "without auth_time": ({"auth_time": None}, "human_proof", "auth_time"),
    "without acr": ({"acr": None}, "invalid_proof", "acr"),
    "with a weaker acr": ({"acr": "0"}, "invalid_proof", "acr"),
    "with an acr that begins so": ({"acr": f"{STRONG}-not"}, "invalid_proof", "acr"),
    "with several acr": ({"acr": [STRONG, "0"]}, "invalid_proof", "acr"),
    "with several acr in a string": ({"acr": f"{STRONG} 0"}, "invalid_proof", "acr"),
    "without the nonce": ({"nonce": None}, "invalid_proof", "nonce"),
    "with another nonce": ({"nonce": "A" * 43}, "invalid_proof", "nonce"),
    "for another client": ({"client_id": "chat-app"}, "invalid_proof", "audience"),
    "for us and another": ({"aud": [CLIENT, "chat-app"], "azp": "chat-app"}, "invalid_proof", "audience"),
    "for two without azp": ({"aud": [CLIENT, "chat-app"]}, "human_proof", None),
    "for one actor alone": (
        {"may_act": {"sub": "spiffe://stage.test/agent/chat"}},
        "invalid_proof",
        "audience",
    ),
    "of another issuer": ({"iss": "https://evil.example"}, "human_proof", "oidc issuer"),
    "that has expired": ({"exp": int(time.time()) - 600}, "human_proof", None),
}


@pytest.mark.parametrize("which", BAD)
async def test_an_id_token_signs_nothing(stage: ApprovalStage, idp: OidcSignIns, which: str) -> None:
    news, (changes, code, rule) = await stage.asked(args={"n": which}), BAD[which]
    on_time(stage, **changes)
    if changes == {"auth_time": None}:
        _without_auth_time(stage)
    await fails(code, rule, signs(stage, idp, news["id"]))
    assert await still_asked(stage, news["id"])
    on_time(stage)
    assert (await signs(stage, idp, news["id"])).record


def _without_auth_time(stage: ApprovalStage) -> None:
    mint = stage.issuer.code.mint

    def bare(**claims: Any) -> str:
        stage.issuer.code.mint = mint
        said = jwt.decode(mint(**claims), options={"verify_signature": False})
        said.pop("auth_time")
        return jwt.encode(said, stage.issuer._key, "ES256", headers={"kid": "dev"})

    stage.issuer.code.mint = bare


async def test_a_sign_in_for_the_pages_may_be_an_hour_old_and_not_more(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    for age, good in ((1800.0, True), (3700.0, False)):
        on_time(stage, auth_age_s=age)
        going = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
        answer = await signed_in(going.address, "bob")
        if good:
            assert (await finished(stage, idp, going, answer)).who == person(stage, "bob")
        else:
            await fails("invalid_proof", "auth_time", finished(stage, idp, going, answer))


# --- swapped, replayed, mixed up


async def test_the_nonce_of_another_approval_signs_neither(stage: ApprovalStage, idp: OidcSignIns) -> None:
    one, other = await stage.asked(args={"to": "bob"}), await stage.asked(args={"to": "eve"})
    mine, theirs = await begun(stage, idp, one["id"]), await begun(stage, idp, other["id"])
    nonce = dict(httpx2.URL(mine.address).params)["nonce"]
    on_time(stage, nonce=nonce)  # an issuer that was talked into it
    await fails(
        "invalid_proof", "nonce", finished(stage, idp, theirs, await signed_in(theirs.address, "alice"))
    )
    on_time(stage)
    assert await still_asked(stage, one["id"])
    assert await still_asked(stage, other["id"])
    assert (await signs(stage, idp, one["id"])).record
    assert await still_asked(stage, other["id"])


async def test_code_and_state_of_two_visits_do_not_mix(stage: ApprovalStage, idp: OidcSignIns) -> None:
    one, other = await stage.asked(args={"n": "one"}), await stage.asked(args={"n": "other"})
    mine, theirs = await begun(stage, idp, one["id"]), await begun(stage, idp, other["id"])
    a, b = await signed_in(mine.address, "alice"), await signed_in(theirs.address, "alice")
    await fails("invalid_proof", "state", finished(stage, idp, mine, b))
    await fails("invalid_proof", "state", finished(stage, idp, theirs, a))
    await fails("invalid_proof", "code", finished(stage, idp, mine, {**a, "code": b["code"]}))  # PKCE
    assert await still_asked(stage, one["id"])
    assert await still_asked(stage, other["id"])
    assert (await finished(stage, idp, mine, a)).record


@pytest.mark.parametrize("sealed", [None, "", "AAAA", "%", "forged"])
async def test_an_answer_that_this_browser_did_not_ask_for_is_nobodys(
    stage: ApprovalStage, idp: OidcSignIns, sealed: str | None
) -> None:
    """A thief's own code and state in somebody else's browser: the victim would act as the thief."""
    house = stage.broker.house
    going = await signing_in.begin_sign_in(house, idp, "/approvals")
    answer = await signed_in(going.address, "bob")
    forged = b64u(house.sealer.seal(b"[]", "another context"))
    shown = forged if sealed == "forged" else sealed
    await fails("invalid_proof", "state", signing_in.finish(house, idp, shown, answer))
    assert (await finished(stage, idp, going, answer)).who == person(stage, "bob")


async def test_whoever_signs_in_there_is_whom_the_page_was_shown_to(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    news = await stage.asked("pair")
    going = await begun(stage, idp, news["id"], "bob")
    await fails(
        "invalid_proof", "person", finished(stage, idp, going, await signed_in(going.address, "carol"))
    )
    assert await still_asked(stage, news["id"])
    assert (await signs(stage, idp, news["id"], "bob")).record
    assert (await signs(stage, idp, news["id"], "carol")).record


async def test_who_may_not_sign_cannot_even_begin(stage: ApprovalStage, idp: OidcSignIns) -> None:
    news = await stage.asked("others")
    for who in ("carol", "alice", "eve"):
        await fails("not_found", None, begun(stage, idp, news["id"], who))
    assert (await signs(stage, idp, news["id"], "bob")).record


async def test_one_visit_and_one_id_token_serve_once(stage: ApprovalStage, idp: OidcSignIns) -> None:
    news = await stage.asked("pair")
    going = await begun(stage, idp, news["id"], "bob")
    answer = await signed_in(going.address, "bob")
    token = await _token(stage, idp, going, answer)
    replaying = Replaying(idp, token)
    assert (await signing_in.finish(stage.broker.house, replaying, going.sealed, answer)).record
    await fails(
        "replay", "proof approval", signing_in.finish(stage.broker.house, replaying, going.sealed, answer)
    )


async def test_an_id_token_of_the_pages_starts_no_intent_and_one_of_an_intent_signs_nothing(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    news, chat = await stage.asked(args={"n": "intent"}), await stage.actor("agent/chat")
    going = await begun(stage, idp, news["id"])
    nonce = dict(httpx2.URL(going.address).params)["nonce"]
    answer = await signed_in(going.address, "alice")
    token = await _token(stage, idp, going, answer)
    assert (await chat.form(chat.intent_form(token))).code == "human_proof"
    ahead = stage.now_ahead
    agents = stage.issuer.mint(
        "alice", client_id="chat-app", nonce=nonce, acr=STRONG, auth_age_s=-ahead, life_s=300 + ahead
    )
    shown = Replaying(idp, agents)
    await fails(
        "invalid_proof", "audience", signing_in.finish(stage.broker.house, shown, going.sealed, answer)
    )
    (await chat.form(chat.intent_form(agents))).ok()
    assert (await signing_in.finish(stage.broker.house, Replaying(idp, token), going.sealed, answer)).record


class Replaying:
    """The port with an ID token that was seen before in place of the one that a code brings."""

    def __init__(self, idp: OidcSignIns, token: str) -> None:
        self._idp, self._token = idp, token
        self.issuer, self.client_id, self.acr, self.label = idp.issuer, idp.client_id, idp.acr, idp.label

    async def address(self, leaving: Any) -> str:
        return await self._idp.address(leaving)

    async def redeem(self, answer: Any, leaving: Any) -> str:
        return self._token


async def _token(stage: ApprovalStage, idp: OidcSignIns, going: Going, answer: dict[str, str]) -> str:
    visit = signing_in._visit(stage.broker.house, going.sealed, answer["state"])
    return await idp.redeem(answer, visit.leaving)


async def test_a_visit_takes_ten_minutes_at_most_and_an_attempt_five(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    news = await stage.asked(args={"n": "late"})
    going = await begun(stage, idp, news["id"])
    plain = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    stage.pass_time(301)
    await fails(
        "invalid_proof", "nonce", finished(stage, idp, going, await signed_in(going.address, "alice"))
    )
    stage.pass_time(300)
    late = await signed_in(plain.address, "alice")
    await fails("invalid_proof", "expired", finished(stage, idp, plain, late))
    assert await still_asked(stage, news["id"])


async def test_an_approval_that_ended_meanwhile_is_not_signed(stage: ApprovalStage, idp: OidcSignIns) -> None:
    news = await stage.asked(args={"n": "ended"})
    going = await begun(stage, idp, news["id"])
    answer = await signed_in(going.address, "alice")
    await approving.deny(stage.broker.house, person(stage), news["id"], "no")
    with pytest.raises((Refused, Conflict)):
        await finished(stage, idp, going, answer)


# --- the provider's answer


async def test_an_answer_of_another_issuer_is_refused_before_its_code_goes_anywhere(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    going = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    answer = await signed_in(going.address, "bob")
    for iss in ("https://evil.example", "", None):
        mixed = {name: value for name, value in {**answer, "iss": iss}.items() if value is not None}
        await fails("invalid_proof", "iss", finished(stage, idp, going, mixed))
    assert answer["code"] in stage.issuer.code.codes
    assert (await finished(stage, idp, going, answer)).who == person(stage, "bob")


async def test_a_no_of_the_provider_is_a_no(stage: ApprovalStage, idp: OidcSignIns) -> None:
    news = await stage.asked(args={"n": "no"})
    going = await begun(stage, idp, news["id"])
    answer = await signed_in(going.address, "alice", said="no")
    told = await fails("access_denied", "identity provider", finished(stage, idp, going, answer))
    assert told.reason.endswith("said no: access_denied")
    odd = {**answer, "error": "<script>alert(1)</script>"}
    told = await fails("access_denied", "identity provider", finished(stage, idp, going, odd))
    assert "script" not in told.reason
    assert await still_asked(stage, news["id"])


@pytest.mark.parametrize("code", [None, "", "never given", "x" * 5000])
async def test_without_a_code_of_the_providers_there_is_nothing(
    stage: ApprovalStage, idp: OidcSignIns, code: str | None
) -> None:
    going = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    answer = await signed_in(going.address, "bob")
    sent = {name: value for name, value in {**answer, "code": code}.items() if value is not None}
    await fails("invalid_proof", "code", finished(stage, idp, going, sent))
    assert (await finished(stage, idp, going, answer)).who == person(stage, "bob")


async def test_a_code_that_leaked_is_of_no_use_without_the_verifier(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    """PKCE: another visit of the same client, even with the right state, has another verifier."""
    going = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    answer = await signed_in(going.address, "bob")
    visit = signing_in._visit(stage.broker.house, going.sealed, answer["state"])
    with pytest.raises(Unproven, match="did not take the code"):
        await idp.redeem(answer, replace(visit.leaving, verifier="A" * 43))
    without = httpx2.URL(going.address).copy_remove_param("code_challenge")
    assert (await signed_in(str(without), "bob"))["error"] == "invalid_request"


async def test_another_redirect_uri_brings_nothing(
    stage: ApprovalStage, http: httpx2.AsyncClient, idp: OidcSignIns
) -> None:
    elsewhere = idp_of(stage, http, redirect_uri="https://evil.example/callback")
    going = await signing_in.begin_sign_in(stage.broker.house, elsewhere, "/approvals")
    assert (await http.get(going.address)).status_code == 400
    right = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    answer = await signed_in(right.address, "bob")
    visit = signing_in._visit(stage.broker.house, right.sealed, answer["state"])
    with pytest.raises(Unproven, match="did not take the code"):
        await elsewhere.redeem(answer, visit.leaving)


async def test_a_visit_whose_nonce_is_not_of_its_approval_signs_nothing(
    stage: ApprovalStage, idp: OidcSignIns
) -> None:
    """Nobody can seal one; if ever we did, the signature would be over something else."""
    news, house = await stage.asked(args={"n": "sealed"}), stage.broker.house
    going = await begun(stage, idp, news["id"])
    told = json.loads(house.sealer.open(unb64u(going.sealed), signing_in._CONTEXT))
    told[1] = "A" * 43
    other = replace(going, sealed=b64u(house.sealer.seal(json.dumps(told).encode(), signing_in._CONTEXT)))
    on_time(stage, nonce="A" * 43)
    await fails(
        "invalid_proof", "nonce", finished(stage, idp, other, await signed_in(going.address, "alice"))
    )
    on_time(stage)
    assert (await signs(stage, idp, news["id"])).record


# --- settings that must not be


async def test_without_a_demanded_acr_nothing_is_signed_this_way(
    stage: ApprovalStage, http: httpx2.AsyncClient, idp: OidcSignIns
) -> None:
    news, weak = await stage.asked(args={"n": "acr"}), idp_of(stage, http, acr=())
    await fails("access_denied", "acr", begun(stage, weak, news["id"]))
    assert (await signs(stage, idp, news["id"])).record


async def test_the_pages_client_is_no_agents(stage: ApprovalStage, http: httpx2.AsyncClient) -> None:
    shared = idp_of(stage, http, client_id="chat-app")
    await fails(
        "unavailable", "sign_in.client_id", signing_in.begin_sign_in(stage.broker.house, shared, "/approvals")
    )


async def test_neither_repr_nor_address_tells_the_secret_or_the_verifier(
    stage: ApprovalStage, http: httpx2.AsyncClient
) -> None:
    stage.issuer.code.clients["with-secret"] = DevClient(redirect_uri=REDIRECT, secret="s3cret:/ +")
    idp = idp_of(stage, http, client_id="with-secret", auth="client_secret_basic", secret="s3cret:/ +")
    going = await signing_in.begin_sign_in(stage.broker.house, idp, "/approvals")
    visit = signing_in._visit(stage.broker.house, going.sealed, going.state)
    for shown in (repr(idp._provider), repr(going), repr(visit), going.address):
        assert "s3cret" not in shown
        assert visit.leaving.verifier not in shown
    answer = await signed_in(going.address, "bob")
    assert (await finished(stage, idp, going, answer)).who == person(stage, "bob")


async def test_keys_and_passkeys_and_sign_ins_count_together(stage: ApprovalStage, idp: OidcSignIns) -> None:
    news, bob = await stage.asked("pair"), await Approver.registered(stage, "bob")
    assert (await bob.sign(news["id"])).ok()["state"] == "asked"
    with pytest.raises(Conflict, match="signed it already"):
        await signs(stage, idp, news["id"], "bob")
    carol = await signs(stage, idp, news["id"], "carol")
    assert carol.record
    assert carol.record.state == "given"
