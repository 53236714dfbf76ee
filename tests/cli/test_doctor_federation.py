"""`stepwrit doctor` on partners: asks, judges, takes nothing over."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.bundles import Endpoint, document, server_tls
from tests.fakes.pki import FakeCa

from stepwrit_broker.attest.federation.memory import Memory
from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_federation import federation_checks
from stepwrit_broker.config import parse_config
from stepwrit_broker.core.registry import Registry

NAMED = Registry(version=1, entries=(), trust_domains=frozenset({"b.test"}))


@dataclass
class Place:
    folder: Path
    endpoint: Endpoint
    ca: FakeCa

    async def look(self, registry: Registry | None = NAMED, **changes: str) -> Check:
        said = {"url": self.endpoint.url, "ca_file": "ca.pem", "profile": "https_web", **changes}
        lines = "\n".join(f'{key} = "{value}"' for key, value in said.items())
        text = (
            'trust_domain = "a.test"\nissuer = "https://a.test"\n[store]\npath = "s.db"\n'
            f'[[federation]]\ntrust_domain = "b.test"\n{lines}\n'
        )
        config = parse_config(text, name="broker.toml", folder=self.folder, env={})
        (check,) = await anyio.to_thread.run_sync(lambda: list(federation_checks(config, registry)))
        return check


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    web, ca = FakeCa("web", now=time.time()), FakeCa("b.test", now=time.time())
    pem = x509.load_der_x509_certificate(web.der).public_bytes(Encoding.PEM)
    (tmp_path / "ca.pem").write_bytes(pem)
    shown = server_tls(web.issue("spiffe://web/x", dns=("localhost",)))
    async with Endpoint(shown) as endpoint:
        endpoint.body = document(ca, sequence=3)
        made = Place(tmp_path, endpoint, ca)
        assert (await made.look()).ok is True
        yield made


async def test_a_partner_that_answers_is_shown_and_nothing_is_taken_over(place: Place) -> None:
    check = await place.look()
    assert check.said == "b.test: 1 X.509 and 0 JWT authorities, sequence 3"
    assert not (place.folder / "federation").exists()


async def test_a_partner_that_the_registry_does_not_name_is_a_warning(place: Place) -> None:
    check = await place.look(Registry(version=1, entries=()))
    assert (check.ok, "name b.test in registry.yaml" in check.todo) == (None, True)


async def test_what_the_broker_would_not_take_is_told(place: Place) -> None:
    place.endpoint.status = 410
    assert "gone" in (await place.look()).said
    place.endpoint.status = 200
    Memory(place.folder / "federation", "b.test").save(document(place.ca, sequence=9), time.time())
    check = await place.look()
    assert (check.ok, "sequence_back" in check.said) == (False, True)


async def test_a_bootstrap_file_that_is_not_there_is_told(place: Place) -> None:
    spiffe = {"profile": "https_spiffe", "ca_file": "", "endpoint_spiffe_id": "spiffe://b.test/spire/server"}
    check = await place.look(bootstrap="none.json", **spiffe)
    assert "unreadable" in check.said
    assert check.todo.startswith("bring the partner's bundle there")
