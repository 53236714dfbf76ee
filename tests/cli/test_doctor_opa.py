"""`stepwrit doctor` on [opa]: whether it answers, and whether the policy needs it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.policy.bad_opa import BadOpa

from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_opa import opa_check
from stepwrit_broker.cli.scaffold import write_init
from stepwrit_broker.config import Config, load_config
from stepwrit_broker.config_opa import OpaTable


@pytest.fixture
def server() -> Iterator[BadOpa]:
    """On a loop of its own: doctor brings its own."""
    loop, made = asyncio.new_event_loop(), BadOpa()
    runs = threading.Thread(target=loop.run_forever)
    runs.start()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result()
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    runs.join()
    loop.close()


def config(tmp_path: Path, engine: str, **opa: object) -> Config:
    folder = tmp_path / engine
    write_init(folder, "prod.example", "https://stepwrit.prod.example", engine=engine, force=True)
    read = load_config(folder / "broker.toml", env={})
    return replace(read, opa=OpaTable(timeout_ms=5000, **opa))  # type: ignore[arg-type]


def checks(made: Config) -> list[Check]:
    return list(opa_check(made))


def test_an_opa_that_answers_is_good_and_is_given_nothing(tmp_path: Path, server: BadOpa) -> None:
    (found,) = checks(config(tmp_path, "opa", url=server.url))
    assert found.ok
    assert "answers in" in found.said
    assert server.known == {}


def test_an_opa_that_is_away_or_refuses_is_named(tmp_path: Path, server: BadOpa) -> None:
    server.reply = lambda _method, _path, _body: (401, b"")
    (found,) = checks(config(tmp_path, "opa", url=server.url))
    assert found.ok is False
    assert "token_file" in found.todo
    away = f"unix://{tmp_path}/none.sock"
    (found,) = checks(config(tmp_path, "opa", url=away))
    assert (found.ok, found.said) == (False, f"{away}: connection")
    (found,) = checks(config(tmp_path, "cedar", url=away))
    assert found.ok is None
    (found,) = checks(config(tmp_path, "opa", url=server.url, token_file=tmp_path / "none"))
    assert found.ok is False
    assert "read" in found.todo


def test_rego_without_an_opa_is_named_and_cedar_needs_none(tmp_path: Path) -> None:
    assert checks(config(tmp_path, "cedar")) == []
    (found,) = checks(config(tmp_path, "opa"))
    assert found.ok is False
    assert "[opa]" in found.todo
