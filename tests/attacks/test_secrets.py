"""No token, proof, ID token, argument or private key is left lying about.

One transaction and a dozen refusals go through the broker; then everything that it wrote, said or would print
is searched for every secret that passed by.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.stage import BANK, Actor, Held, Reply, Stage, accept_body, new, redeem_body

from stepwrit import shape
from stepwrit.dpop import make_proof
from stepwrit.jws import SigningKey
from stepwrit.wire import (
    HEADER_DPOP,
    HEADER_OPERATION,
    AcceptRequest,
    OpenStepRequest,
    RedeemRequest,
    StepOpened,
)
from stepwrit_broker.flows.intent import IntentStarted
from stepwrit_broker.flows.issue import Issued
from stepwrit_broker.flows.opening import StepReady
from stepwrit_broker.wiring import configured

CANARY = "canary-argument-5c0d3f"


@dataclass
class Evidence:
    """Every secret by name, and everything that was said."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    said: dict[str, bytes] = field(default_factory=dict)

    def secret(self, name: str, value: str | bytes) -> None:
        self.secrets[name] = value.encode() if isinstance(value, str) else value

    def token(self, name: str, value: str) -> None:
        """A JWS; its signature alone would betray that it was kept."""
        self.secret(name, value)
        self.secret(f"{name}'s signature", value.rpartition(".")[2])

    def key(self, name: str, key: SigningKey) -> None:
        number = key._private.private_numbers().private_value
        raw = number.to_bytes(32, "big")
        self.secret(f"{name}, raw", raw)
        self.secret(f"{name}, hex", raw.hex())
        self.secret(f"{name}, base64url", base64.urlsafe_b64encode(raw).rstrip(b"="))
        self.secret(f"{name}, decimal", str(number))
        der = key._private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.secret(f"{name}, base64", base64.b64encode(der)[40:100])

    def found(self) -> list[str]:
        return [
            f"{secret} in {place}"
            for place, text in self.said.items()
            for secret, value in self.secrets.items()
            if value in text
        ]


@contextmanager
def logs(kind: str) -> Iterator[io.StringIO]:
    """What goes to stderr as configured, or by the library's own defaults, and stdlib logging beside it."""
    told, before = io.StringIO(), structlog.get_config()
    if kind == "not configured":
        structlog.reset_defaults()
    else:
        configured.log_to_stderr(config_of(kind))
    factory = structlog.WriteLoggerFactory(file=told)
    structlog.configure(logger_factory=factory, cache_logger_on_first_use=False)
    handler = logging.StreamHandler(told)
    handler.addFilter(lambda record: not record.name.startswith("http"))  # the callers' own clients
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        yield told
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
        structlog.configure(**before)


def config_of(kind: str) -> Any:
    """A configuration with this log format and everything logged."""

    @dataclass
    class Log:
        format: str = kind
        level: str = "debug"

    @dataclass
    class Config:
        log: Log = field(default_factory=Log)

    return Config()


async def refusals(stage: Stage, held: Held, evidence: Evidence, chat: Actor) -> list[Reply]:
    """Wrong in every way that has a secret in hand."""
    root = await stage.root()
    ledger, bank = held.ledger, held.bank
    opened = await chat.open(root["step"], args={"to": CANARY})
    evidence.token("a second step token", opened.token)
    used = ledger.proof("/oauth/token")
    evidence.token("a DPoP proof", used)
    body = accept_body(opened)
    evidence.token("a step proof", body["proof"])
    second = stage.issuer.mint("alice", client_id="other-app")
    evidence.token("an ID token for another", second)
    bad_proof = make_proof(ledger.key, "POST", f"{BANK}/elsewhere", stage.now(), new())
    evidence.token("a presenter's proof", bad_proof)
    replies = [
        await bank.redeem(held.token, ledger),  # a replay
        await bank.json("/v1/redeem", redeem_body(held.token, ledger) | {"proof": bad_proof}),
        await bank.json(
            "/v1/redeem", redeem_body(held.token, ledger) | {"finding": "replay", "surprise": held.token}
        ),
        await bank.json("/v1/redeem", {held.token[:200]: 1}),
        await bank.json("/v1/redeem", redeem_body(opened.token, ledger)),
        await ledger.accept(opened, args=CANARY),
        await ledger.accept(opened, token=held.token),
        await ledger.accept(opened, proof=opened.token),
        await ledger.accept(opened, round=held.token),
        await ledger.form({"grant_type": held.token, "subject_token": opened.token}),
        await ledger.form({held.token: "1"}),
        await ledger.credential(opened.token, proof=used),
        await ledger.credential(held.token),
        await ledger.credential(opened.step, url=f"{BANK}/v1/{CANARY}"),
        await chat.form(chat.intent_form(second)),
        await chat.form(chat.intent_form(held.token)),
        await chat.open_reply(held.token, args={"to": CANARY}),
        await chat.open_reply(root["step"], args={"to": CANARY, "n": 2**60}),
        await chat.open_reply(root["step"], args={"to": CANARY}, proof=held.token),
        await chat.open_reply(root["step"], args={"to": CANARY}, origin="human"),
        await chat.post("/v1/steps", b'{"args":{"to":"' + CANARY.encode() + b'","to":1}}'),
        await chat.json(f"/v1/steps/{held.token}/close", {"v": 1, "outcome": "done"}),
        await chat.send(
            "POST", "/v1/steps", b"{}", {HEADER_DPOP: held.token, HEADER_OPERATION: held.token[:100]}
        ),
        await chat.json("/v1/revocations", {"v": 1, "verb": "revoke", "target": held.token, "reason": "x"}),
    ]
    assert all(reply.status >= 400 for reply in replies)
    return replies


async def transaction(stage: Stage, evidence: Evidence) -> tuple[Held, Actor]:
    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    id_token = stage.issuer.mint("alice", client_id="chat-app")
    evidence.token("the ID token", id_token)
    root = (await chat.form(chat.intent_form(id_token))).ok()
    evidence.token("the root token", root["access_token"])
    opened = await chat.open(root["step"], args={"to": CANARY, "deep": [{CANARY: CANARY}]})
    evidence.token("the step token", opened.token)
    body = accept_body(opened)
    evidence.token("the step proof", body["proof"])
    (await ledger.json(f"/v1/steps/{opened.step}/accept", body)).ok()
    got = (await ledger.credential(opened.step)).ok()
    evidence.token("the credential", got["access_token"])
    bank = await stage.actor("resource/bank/1")
    held = Held(
        step=opened.step, txn=opened.txn, opened=opened, token=got["access_token"], grant=got["grant"],
        ledger=ledger, bank=bank,
    )  # fmt: skip
    (await held.redeem()).ok()
    return held, chat


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["json", "text", "not configured"])
async def evidence(request: pytest.FixtureRequest) -> AsyncGenerator[Evidence]:
    gathered = Evidence()
    gathered.secret("an argument", CANARY)
    with logs(request.param) as told:
        async with Stage() as stage:
            held, chat = await transaction(stage, gathered)
            replies = await refusals(stage, held, gathered, chat)
            await _broken(stage, held, gathered)
            for name, key in (("the agent's key", chat.key), ("the server's key", held.ledger.key)):
                gathered.key(name, key)
            for ring in stage.broker.housed.rings:
                gathered.key("a key of the broker's", ring.signing_key(stage.now()))
            gathered.said["metrics"] = stage.broker.metrics.text()
            gathered.said["error bodies"] = b"\n".join(
                reply.raw + repr(reply.headers).encode() for reply in replies
            )
            objects = [
                stage.broker,
                stage.broker.house,
                stage.broker.store,
                stage.broker.settings,
                *stage.broker.housed.rings,
            ]
            gathered.said["reprs of the broker's parts"] = "\n".join(map(repr, objects)).encode()
            await stage.stop()
            _files(stage, gathered)
            await stage.start()
        gathered.said["logs"] = told.getvalue().encode()
    yield gathered


async def _broken(stage: Stage, held: Held, evidence: Evidence) -> None:
    """A fault in our own code, deep in a request full of secrets: what the log then says."""
    ring = stage.broker.house.step_tokens
    read, stage_house = type(ring).read, stage.broker.house

    def boom(self: Any, unverified: str, now: float) -> Any:
        raise RuntimeError("a bug")

    assert stage_house.step_tokens is ring
    type(ring).read = boom  # type: ignore[method-assign,assignment]
    try:
        told = await held.ledger.accept(held.opened)
        assert (told.status, told.code) == (503, "unavailable")
        evidence.said["the answer to a bug"] = told.raw
    finally:
        type(ring).read = read  # type: ignore[method-assign]


def _files(stage: Stage, evidence: Evidence) -> None:
    for path in sorted(stage.folder.rglob("*")):
        if path.is_file() and path.name != "ledger.key":
            evidence.said[f"file {path.relative_to(stage.folder)}"] = path.read_bytes()
    with closing(sqlite3.connect(stage.folder / "store" / "stepwrit.db")) as conn:
        names = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            rows = conn.execute(f"SELECT * FROM {name}").fetchall()
            evidence.said[f"table {name}"] = repr(rows).encode()


def test_the_search_itself_finds_what_is_there(evidence: Evidence) -> None:
    assert len(evidence.secrets) > 30
    assert {"logs", "metrics", "error bodies", "table ops", "file store/stepwrit.db"} <= evidence.said.keys()
    assert b"refused" in evidence.said["logs"]
    assert b"a bug" in evidence.said["logs"]
    probe = Evidence(secrets=evidence.secrets, said={"x": b"..." + evidence.secrets["the credential"]})
    assert probe.found()


def test_no_secret_is_in_anything_that_was_written_or_said(evidence: Evidence) -> None:
    assert evidence.found() == []


def test_what_holds_a_secret_does_not_show_it() -> None:
    secret = "eyJ.canary.token"
    shown: list[object] = [
        StepOpened(step="s", txn="t", token=secret, expires_in=1, origin="model", performer="p", ref="r"),
        AcceptRequest(token=secret, proof=secret, args="a"),
        RedeemRequest(token=secret, proof=secret, method="GET", url="u", body="b"),
        OpenStepRequest(parent="p", server="s", tool="t", args={"x": secret}),
        Issued(
            record=SimpleNamespace(grant=SimpleNamespace(id="g")),  # type: ignore[arg-type]
            step=None,  # type: ignore[arg-type]
            credential=secret,
            expires_in=1,
        ),
        StepReady(record=None, token=secret, expires_in=1),  # type: ignore[arg-type]
        IntentStarted(record=None, token=secret, expires_in=1),  # type: ignore[arg-type]
    ]
    for each in shown:
        assert secret not in repr(each), type(each).__name__
        assert secret not in str(each), type(each).__name__


def test_shapes_still_write_what_they_do_not_show() -> None:
    opened = StepOpened(step="s", txn="t", token="x", expires_in=1, origin="model", performer="p", ref="r")
    assert json.loads(json.dumps(shape.write(opened)))["token"] == "x"


async def test_what_the_broker_keeps_is_for_its_owner_only(stage: Stage) -> None:
    for name in ("ledger.key", "admin.sock", "store", "anchor"):
        assert (stage.folder / name).stat().st_mode & 0o077 == 0, name
