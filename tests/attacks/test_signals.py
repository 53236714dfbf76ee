"""Security events of an identity provider: who may push them, what they stop, and what is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.bearer import tls_client
from tests.fakes.stage import AUTHORIZATION, ISSUER, Opened, Stage, new, refused

from stepwrit_broker.core.persons import Identity

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage(signals=True) as stage:
        yield stage


class Transmitter:
    """The issuer's own transmitter; any claim, header or key of what it pushes can be another."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def token(
        self, subject: str, event: str, *, typ: str = "secevent+jwt", key: Any = None, **claims: Any
    ) -> str:
        said: dict[str, Any] = {
            "iss": self.stage.issuer.url,
            "aud": ISSUER,
            "iat": int(self.stage.now()),
            "jti": new(),
            "sub_id": {"format": "iss_sub", "iss": self.stage.issuer.url, "sub": subject},
            "events": {event: {"event_timestamp": int(self.stage.now())}},
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key or self.stage.issuer._key, "ES256", headers={"kid": "dev", "typ": typ})

    async def push(
        self,
        token: str,
        *,
        authorization: str | None = AUTHORIZATION,
        kind: str = "application/secevent+jwt",
        method: str = "POST",
    ) -> httpx2.Response:
        headers = {"content-type": kind} | ({} if authorization is None else {"authorization": authorization})
        async with tls_client(self.stage) as http:
            return await http.request(method, "/signals", content=token, headers=headers)


@pytest.fixture
def transmitter(stage: Stage) -> Transmitter:
    return Transmitter(stage)


def target_of(stage: Stage, person: str) -> str:
    return f"requester:{stage.broker.house.opaque(Identity(stage.issuer.url, person))}"


async def started(stage: Stage, person: str) -> dict[str, Any]:
    chat = await stage.actor("agent/chat")
    token = stage.issuer.mint(person, client_id="chat-app")
    return (await chat.form(chat.intent_form(token))).ok()


async def running(stage: Stage, person: str) -> tuple[dict[str, Any], Opened]:
    """A person's intent, and a step below it that its server has accepted."""
    root, chat = await started(stage, person), await stage.actor("agent/chat")
    opened = await chat.open(root["step"])
    (await (await stage.actor("mcp-server/ledger")).accept(opened)).ok()
    return root, opened


@pytest.mark.parametrize(
    "event", [f"{CAEP}session-revoked", f"{CAEP}credential-change", f"{RISC}account-disabled"]
)
async def test_what_a_person_started_stops_when_their_issuer_says_so(
    stage: Stage, transmitter: Transmitter, event: str
) -> None:
    person = f"p-{new()}"
    root, opened = await running(stage, person)
    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    (await ledger.credential(opened.step)).ok()
    reply = await transmitter.push(transmitter.token(person, event))
    assert (reply.status_code, reply.content) == (202, b"")
    refused(stage, await ledger.credential(opened.step), "frozen")
    refused(stage, await chat.open_reply(root["step"]), "frozen")
    token = stage.issuer.mint(person, client_id="chat-app")
    refused(stage, await chat.form(chat.intent_form(token)), "frozen")
    mark = stage.broker.store.marks()[target_of(stage, person)]
    assert mark.by == f"signal of {stage.issuer.url}"
    assert person not in f"{mark.target} {mark.reason}", "the ledger keeps no name of a person"
    await started(stage, f"p-{new()}")  # nobody else is stopped


async def test_it_outlives_a_restart(stage: Stage, transmitter: Transmitter) -> None:
    person = f"p-{new()}"
    await started(stage, person)
    assert (await transmitter.push(transmitter.token(person, f"{CAEP}session-revoked"))).status_code == 202
    await stage.restart()
    chat = await stage.actor("agent/chat")
    token = stage.issuer.mint(person, client_id="chat-app")
    refused(stage, await chat.form(chat.intent_form(token)), "frozen")


async def test_an_account_that_is_enabled_again_is_free_and_no_other_freeze_is(
    stage: Stage, transmitter: Transmitter
) -> None:
    person, other = f"p-{new()}", f"p-{new()}"
    for each in (person, other):
        await started(stage, each)
    assert (await transmitter.push(transmitter.token(person, f"{RISC}account-disabled"))).status_code == 202
    (await stage.mark("freeze", target_of(stage, other))).ok()
    for each in (person, other):
        assert (await transmitter.push(transmitter.token(each, f"{RISC}account-enabled"))).status_code == 202
    await started(stage, person)
    assert target_of(stage, other) in stage.broker.store.marks(), "an operator's freeze is an operator's"


async def test_an_account_switched_off_and_on_takes_nobody_elses_freeze_with_it(
    stage: Stage, transmitter: Transmitter
) -> None:
    free, held, left = (f"p-{new()}" for _ in range(3))
    for each in (free, held, left):
        await started(stage, each)
    (await stage.mark("freeze", target_of(stage, held))).ok()
    assert (await transmitter.push(transmitter.token(left, f"{CAEP}session-revoked"))).status_code == 202
    for event in ("account-disabled", "account-enabled"):
        for each in (free, held, left):
            assert (await transmitter.push(transmitter.token(each, RISC + event))).status_code == 202
    await started(stage, free)
    for each in (held, left):
        assert target_of(stage, each) in stage.broker.store.marks(), "only an operator lifts this one"


async def test_an_older_event_does_not_undo_a_newer_one(stage: Stage, transmitter: Transmitter) -> None:
    person, now = f"p-{new()}", int(stage.now())
    await started(stage, person)
    events = ((now, "account-disabled"), (now - 60, "account-enabled"))
    for at, event in events:
        assert (await transmitter.push(transmitter.token(person, RISC + event, iat=at))).status_code == 202
    chat = await stage.actor("agent/chat")
    token = stage.issuer.mint(person, client_id="chat-app")
    refused(stage, await chat.form(chat.intent_form(token)), "frozen")
    assert (await transmitter.push(transmitter.token(person, f"{RISC}account-enabled"))).status_code == 202
    await started(stage, person)


async def test_a_purged_account_is_over_for_good(stage: Stage, transmitter: Transmitter) -> None:
    person = f"p-{new()}"
    await started(stage, person)
    for event in ("account-purged", "account-enabled"):
        assert (await transmitter.push(transmitter.token(person, RISC + event))).status_code == 202
    assert stage.broker.store.marks()[target_of(stage, person)].verb == "revoke"


async def test_an_event_counts_once_also_long_after_it_was_lifted(
    stage: Stage, transmitter: Transmitter
) -> None:
    person = f"p-{new()}"
    token = transmitter.token(person, f"{CAEP}session-revoked")
    replies = await asyncio.gather(*(transmitter.push(token) for _ in range(8)))
    assert {reply.status_code for reply in replies} == {202}, "a retransmission is acknowledged"
    (await stage.mark("unfreeze", target_of(stage, person))).ok()
    stage.pass_time(3600)
    await stage.broker.store.reap(stage.now())
    assert (await transmitter.push(token)).status_code == 202
    assert target_of(stage, person) not in stage.broker.store.marks()
    fresh = transmitter.token(person, f"{CAEP}session-revoked")
    assert (await transmitter.push(fresh)).status_code == 202
    assert target_of(stage, person) in stage.broker.store.marks()


@pytest.mark.parametrize(
    ("err", "claims"),
    [
        ("invalid_issuer", {"iss": "https://evil.example"}),
        ("invalid_issuer", {"iss": None}),
        ("invalid_audience", {"aud": "https://other.example"}),
        ("invalid_audience", {"aud": None}),
        ("invalid_request", {"sub": "alice"}),
        ("invalid_request", {"exp": 9_999_999_999}),
        ("invalid_request", {"iat": 1}),
        ("invalid_request", {"iat": 9_999_999_999}),
        ("invalid_request", {"iat": None}),
        ("invalid_request", {"jti": None}),
        ("invalid_request", {"events": {}}),
        ("invalid_request", {"events": {f"{CAEP}session-revoked": {}, VERIFICATION: {}}}),
        ("invalid_request", {"sub_id": None}),
        ("invalid_request", {"sub_id": {"format": "email", "email": "alice@corp.example"}}),
        ("access_denied", {"sub_id": {"format": "iss_sub", "iss": "https://other.example", "sub": "alice"}}),
        ("invalid_request", {"typ": "JWT"}),
        ("invalid_request", {"typ": "at+jwt"}),
    ],
)
async def test_what_is_no_event_for_us_is_refused_by_its_code(
    stage: Stage, transmitter: Transmitter, err: str, claims: dict[str, Any]
) -> None:
    person = f"p-{new()}"
    good = transmitter.token(person, f"{CAEP}token-claims-change")
    assert (await transmitter.push(good)).status_code == 202
    reply = await transmitter.push(transmitter.token(person, f"{CAEP}session-revoked", **claims))
    assert (reply.status_code, reply.json()["err"]) == (400, err), reply.content
    assert reply.json()["description"]
    assert target_of(stage, person) not in stage.broker.store.marks()


async def test_a_forged_event_and_an_id_token_stop_nobody(stage: Stage, transmitter: Transmitter) -> None:
    person = f"p-{new()}"
    forged = transmitter.token(person, f"{CAEP}session-revoked", key=ec.generate_private_key(ec.SECP256R1()))
    reply = await transmitter.push(forged)
    assert (reply.status_code, reply.json()["err"]) == (400, "invalid_key")
    for token in (stage.issuer.mint(person, client_id="chat-app"), "a.b.c", "", "x" * 20_000):
        reply = await transmitter.push(token)
        assert (reply.status_code, reply.json()["err"]) == (400, "invalid_request")
    assert target_of(stage, person) not in stage.broker.store.marks()


async def test_the_transmitter_has_to_authenticate(stage: Stage, transmitter: Transmitter) -> None:
    person = f"p-{new()}"
    token = transmitter.token(person, f"{CAEP}session-revoked")
    for authorization in (None, "", "Bearer another", f"{AUTHORIZATION}x"):
        reply = await transmitter.push(token, authorization=authorization)
        assert (reply.status_code, reply.json()["err"]) == (400, "authentication_failed")
    assert target_of(stage, person) not in stage.broker.store.marks()
    assert (await transmitter.push(token)).status_code == 202


async def test_a_verification_is_acknowledged_and_an_unknown_event_changes_nothing(
    stage: Stage, transmitter: Transmitter
) -> None:
    before = dict(stage.broker.store.marks())
    opaque = {"format": "opaque", "id": "stream-1"}
    assert (await transmitter.push(transmitter.token("x", VERIFICATION, sub_id=opaque))).status_code == 202
    assert (await transmitter.push(transmitter.token("x", "https://example.com/whatever"))).status_code == 202
    assert dict(stage.broker.store.marks()) == before


async def test_only_a_post_of_the_media_type_is_read(stage: Stage, transmitter: Transmitter) -> None:
    token = transmitter.token(f"p-{new()}", f"{CAEP}session-revoked")
    assert (await transmitter.push(token, kind="application/jwt")).json()["err"] == "invalid_request"
    assert (await transmitter.push(token, method="GET")).status_code == 405
    assert (await transmitter.push(token)).status_code == 202


async def test_without_a_registered_transmitter_there_is_no_such_path() -> None:
    async with Stage() as other, tls_client(other) as http:
        answer = await http.post(
            "/signals", content="x", headers={"content-type": "application/secevent+jwt"}
        )
        assert answer.status_code == 404
