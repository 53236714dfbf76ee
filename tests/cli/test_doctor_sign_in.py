"""`stepwrit doctor` on [sign_in]: whether the provider is there, and can what is demanded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from tests.approvals.test_oidc import Odd

from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_sign_in import sign_in_check
from stepwrit_broker.config import parse_config


@pytest.fixture
def odd() -> Iterator[Odd]:
    """On a loop of its own: doctor brings its own."""
    loop, made = asyncio.new_event_loop(), Odd()
    runs = threading.Thread(target=loop.run_forever)
    runs.start()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result()
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    runs.join()
    loop.close()


def checks(url: str, more: str = "") -> list[Check]:
    text = (
        'trust_domain = "prod.example"\nissuer = "https://broker.prod.example:8444"\n'
        f'[[oidc]]\nissuer = "{url}"\n[sign_in]\nissuer = "{url}"\nclient_id = "pages"\n{more}'
    )
    return list(sign_in_check(parse_config(text, name="broker.toml", folder=Path("/none"), env={})))


def test_a_provider_that_can_is_good(odd: Odd) -> None:
    odd.metadata = lambda: JSONResponse(odd.good(acr_values_supported=["phr", "phrh"]))
    (found,) = checks(odd.url, 'acr = ["phr"]\n')
    assert found.ok
    assert "https://broker.prod.example:8444/sign-in/oidc/callback" in found.said
    (found,) = checks(odd.url)
    assert found.ok
    assert "nobody signs by it" in found.said


def test_a_provider_that_does_not_say_is_believed_to(odd: Odd) -> None:
    (found,) = checks(odd.url, 'acr = ["phr"]\n')
    assert found.ok


def test_an_acr_that_the_provider_does_not_name_is_warned_of(odd: Odd) -> None:
    odd.metadata = lambda: JSONResponse(odd.good(acr_values_supported=["0", "mfa"]))
    (found,) = checks(odd.url, 'acr = ["phr", "mfa"]\n')
    assert found.ok is None
    assert found.said.endswith("acr phr")
    assert "0, mfa" in found.todo


def test_a_provider_that_is_away_or_not_one_is_named(odd: Odd) -> None:
    odd.metadata = lambda: JSONResponse({}, status_code=500)
    for url in (odd.url, "http://127.0.0.1:1"):
        (found,) = checks(url)
        assert found.ok is False
        assert f"{url}/.well-known/openid-configuration" in found.todo


def test_a_secret_that_cannot_be_read_is_named(odd: Odd) -> None:
    (found,) = checks(odd.url, 'auth = "client_secret_basic"\nsecret_file = "secret"\n')
    assert found.ok is False
    assert "/none/secret cannot be read" in found.said


def test_nothing_is_checked_where_nothing_is_set() -> None:
    text = 'trust_domain = "prod.example"\nissuer = "https://broker.prod.example:8444"\n'
    assert list(sign_in_check(parse_config(text, name="b", folder=Path("/"), env={}))) == []
