"""The two clients: thin drivers, keys asked for seldom, nothing started before it is needed."""

from __future__ import annotations

import pytest
from tests.sdk.test_client_fakes import (
    AGENT,
    SERVER,
    Counting,
    FakeBroker,
    Row,
    SetClock,
    SyncPort,
    lost,
    no_sleep,
    refused,
)  # fmt: skip

from stepwrit._settings import Settings
from stepwrit.client import Broker, SyncBroker
from stepwrit.errors import ConfigurationError, IdentityUnavailable, RefusedError, UnavailableError
from stepwrit.jws import SigningKey, TokenRefused, UnknownKey
from stepwrit.wire import CloseRequest, MarkRequest, OpenStepRequest

OPEN = OpenStepRequest(parent="stp_0", server="ledger", tool="transfer", args={"amount": 5})


@pytest.fixture
def fake() -> FakeBroker:
    return FakeBroker(SetClock())


@pytest.fixture
def broker(fake: FakeBroker) -> Broker:
    return Broker(fake.sent_by(SERVER), SERVER, fake.parts(Counting()), sleep=no_sleep)


def some_row(key: SigningKey) -> Row:
    return Row("stp_7", None, "ledger", "transfer", {"amount": 5}, key.thumbprint, AGENT)


async def test_both_clients_get_the_same_answers(fake: FakeBroker, broker: Broker) -> None:
    sync = SyncBroker(SyncPort(fake, SERVER), SERVER, fake.parts(), sleep=lambda _: None)

    opened, opened_sync = await broker.open(OPEN), sync.open(OPEN)

    assert (opened.txn, opened.performer) == (opened_sync.txn, opened_sync.performer)
    mark = MarkRequest(verb="revoke", target="step:stp_1", reason="test")
    assert await broker.mark(mark) == sync.mark(mark)


async def test_both_clients_retry_alike(fake: FakeBroker, broker: Broker) -> None:
    waited: list[float] = []
    sync = SyncBroker(SyncPort(fake, SERVER), SERVER, fake.parts(), sleep=waited.append)
    fake.instead["open"] = [lost(), lost()]

    await broker.open(OPEN)
    assert fake.verbs() == ["open"] * 3
    fake.instead["open"] = [lost(), lost()]
    sync.open(OPEN)

    assert fake.verbs() == ["open"] * 6
    assert len(waited) == 2


async def test_a_lost_reply_gets_the_first_answer_again(fake: FakeBroker, broker: Broker) -> None:
    fake.after["open"] = [lost()]

    opened = await broker.open(OPEN)

    assert fake.verbs() == ["open", "open"]
    assert list(fake.rows) == [opened.step]


async def test_a_down_broker_is_a_typed_doubt(fake: FakeBroker, broker: Broker) -> None:
    assert (await broker.open(OPEN)).txn == "txn_1"
    fake.instead["open"] = [lost(sent=False)] * 4

    with pytest.raises(UnavailableError):
        await broker.open(OPEN)


async def test_keys_are_asked_for_once_for_many_tokens(fake: FakeBroker, broker: Broker) -> None:
    row = some_row(broker.key)

    for _ in range(3):
        assert (await broker.step_claims(fake.token(row))).step == "stp_7"

    assert [verb for verb, _ in fake.seen] == ["metadata", "jwks"]
    assert broker.issuer == "https://issuer.example"


async def test_an_unknown_key_is_looked_for_but_not_without_bound(fake: FakeBroker, broker: Broker) -> None:
    row = some_row(broker.key)
    await broker.step_claims(fake.token(row))
    fake.st_key = SigningKey.generate(kid="st-2")
    assert (await broker.step_claims(fake.token(row))).step == "stp_7"

    stranger = FakeBroker(fake.clock, st_key=SigningKey.generate(kid="st-evil"))
    for _ in range(20):
        with pytest.raises(UnknownKey):
            await broker.step_claims(stranger.token(row))

    assert [verb for verb, _ in fake.seen].count("jwks") <= 6


async def test_a_key_that_was_taken_back_ends_to_count(fake: FakeBroker, broker: Broker) -> None:
    row = some_row(broker.key)
    old = fake.st_key
    await broker.step_claims(fake.token(row))
    fake.st_key = SigningKey.generate(kid="st-2")
    fake.clock.at += 301

    now = int(fake.clock.now())
    with pytest.raises(UnknownKey):
        await broker.step_claims(FakeBroker(fake.clock, st_key=old).token(row, iat=now, exp=now + 60))


async def test_a_credential_key_signs_no_step_token(fake: FakeBroker, broker: Broker) -> None:
    row = some_row(broker.key)
    assert (await broker.step_claims(fake.token(row))).step == "stp_7"

    with pytest.raises(TokenRefused):
        await broker.step_claims(FakeBroker(fake.clock, st_key=fake.at_key).token(row))


async def test_the_issuer_is_unknown_until_the_broker_was_asked(broker: Broker) -> None:
    with pytest.raises(UnavailableError):
        _ = broker.issuer
    assert set(await broker.keys()) == {"st-1", "at-1"}
    assert broker.issuer == "https://issuer.example"


async def test_no_identity_is_said_as_such(fake: FakeBroker) -> None:
    class Nobody:
        known = False
        expires_at = None

        def start(self) -> None:
            pass

        def wait(self, seconds: float) -> None:
            raise IdentityUnavailable("no X.509-SVID")

        @property
        def spiffe_id(self) -> str:
            raise IdentityUnavailable("no X.509-SVID")

        def stop(self) -> None:
            pass

    broker = Broker(fake.sent_by(SERVER), Nobody(), fake.parts())  # type: ignore[arg-type]

    with pytest.raises(IdentityUnavailable):
        await broker.open(OPEN)
    assert fake.seen == []


async def test_from_env_starts_nothing(tmp_path: object) -> None:
    environ = {
        "SPIFFE_ENDPOINT_SOCKET": f"unix://{tmp_path}/none.sock",
        "STEPWRIT_BROKER": "https://127.0.0.1:1",
    }

    broker = Broker.from_env(environ)

    assert repr(broker) == "Broker('https://127.0.0.1:1')"
    await broker.aclose()
    SyncBroker.from_env(environ).close()
    assert Settings.read(environ).hint is None
    assert Settings.read({**environ, "STEPWRIT_SPIFFE_HINT": "chat"}).hint == "chat"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPIFFE_ENDPOINT_SOCKET", ""),
        ("STEPWRIT_BROKER", ""),
        ("STEPWRIT_BROKER", "http://broker.example"),
        ("STEPWRIT_BROKER", "https://user@broker.example"),
        ("STEPWRIT_BROKER", "https://broker.example/sub"),
        ("STEPWRIT_BROKER_ID", "https://broker.example"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    right = {
        "SPIFFE_ENDPOINT_SOCKET": "unix:///tmp/none.sock",
        "STEPWRIT_BROKER": "https://broker.example:8443",
        "STEPWRIT_BROKER_ID": "spiffe://prod.example/stepwrit/broker",
    }
    SyncBroker.from_env(right).close()

    with pytest.raises(ConfigurationError, match=name):
        SyncBroker.from_env({**right, name: value})


async def test_a_refusal_names_its_ref(fake: FakeBroker, broker: Broker) -> None:
    opened = await broker.open(OPEN)
    assert (await broker.close_step(opened.step, "done")).state == "done"
    fake.instead["open"] = [lambda _: refused("limit", 403, ref="7Q2K", retry_after=12)]

    with pytest.raises(RefusedError) as no:
        await broker.open(OPEN)
    assert (no.value.code, no.value.ref, no.value.refusal.retry_after) == ("limit", "7Q2K", 12)
    assert CloseRequest(outcome="done").v == 1
