"""Who we are to Redis: the least that an ACL must allow, TLS, and what the server says of itself."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.exceptions import NoPermissionError
from tests.contracts.swift_suite import AFTER, NOW, ONE, SHARDS, TWO, ask, change, commit, held, txn
from tests.rigs.redis import redis_replica, redis_sentinels, redis_server

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.seams import Once, Place, Told

pytestmark = pytest.mark.live
LONG_AGO = NOW - 10**9
PAGE = Path(__file__).parents[2] / "docs/reference/fleet-redis.md"


class Wall:
    def now(self) -> float:
        return time.time()


def of(url: str, **options: str) -> RedisSwift:
    return RedisSwift.of(url, fleet="prod", shards=SHARDS, timeout_s=20, **options)


async def everything(swift: RedisSwift) -> None:
    """Each command that the engine knows."""
    await swift.begin(ONE, 1)
    await swift.begin(TWO, 2)
    await commit(swift, change(txn(0)), epoch=TWO)
    await commit(swift, change(txn(0), 1, drop=("steps:a",)), epoch=TWO)
    snapshot = await held(swift, txn(0), TWO)
    assert await swift.evict(TWO, txn(0), 2)
    await swift.hold(TWO, snapshot, 1)
    claims = [Once(b"k" * 16, "me", NOW + 60), Place("p", "me", 1, NOW + 60)]
    assert await swift.claim(TWO, claims, NOW) == ["me", "me"]
    assert await swift.claim(TWO, [Once(b"k" * 16, "you", NOW + 999)], NOW + 100) == ["you"]
    await swift.claim(TWO, [Once(b"k" * 16, "them", NOW + 9999)], NOW + 2000)
    await swift.claim(TWO, [Place("p", "you", 1, NOW + 9999)], NOW + 2000)
    await swift.release(TWO, [*claims, Place("p", "you", 1, NOW)])
    for at in (0, 5000):
        taken = await swift.lease(TWO, f"key{at}", ask(LONG_AGO + at))
        assert taken.cells == 1
    await swift.give_back(TWO, "key5000", taken.tat, 1, 1.0)
    await swift.rule(TWO, 1)
    assert [each.seq for each in await swift.read(TWO, AFTER, 0)] == [1, 2]
    await swift.trim(TWO, {0: 2})
    assert await swift.backlog(TWO, 0) == 0
    await swift.tell(Told("rules", b"1"))
    assert swift.sweeping is not None
    await swift.sweeping


async def refuses(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(Unavailable) as refused:
        await call()
    assert "secret" not in repr(refused.value) + refused.value.reason
    assert refused.value.rule == "store"


def acl_of_the_page() -> list[str]:
    found = re.search(r"^ACL (SETUSER stepwrit .*?)\n```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1].replace("\\\n", " ").split()


async def test_the_pages_acl_line_is_enough_and_no_more(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, server.client() as client:
        await client.execute_command("ACL", *acl_of_the_page())
        swift = of(
            server.url.replace("redis://", "redis://stepwrit:secret%20of%20prod@").replace("%20of%20", "-of-")
        )
        try:
            await everything(swift)
            facts = await swift.facts(Wall())
        finally:
            await swift.close()
        assert (facts[0].user, facts[0].appendonly) == ("stepwrit", "yes")
        async with server.client(username="stepwrit", password="secret-of-prod") as narrow:
            assert await narrow.info("server")
            for words in (
                ("SET", "{prod:00}:x", "1"),
                ("FLUSHALL",),
                ("KEYS", "*"),
                ("CONFIG", "SET", "save", ""),
            ):
                with pytest.raises(NoPermissionError):
                    await narrow.execute_command(*words)
        stranger = RedisSwift.of(
            f"redis://stepwrit:secret-of-prod@127.0.0.1:{server.port}", fleet="other", shards=1
        )
        await refuses(lambda: stranger.begin(ONE, 1))
        await stranger.close()


async def test_a_wrong_password_is_refused_and_not_told(tmp_path: Path) -> None:
    async with redis_server(tmp_path, requirepass="secret-right") as server:
        right = of(server.url.replace("//", "//:secret-right@"))
        await right.begin(ONE, 1)
        await right.close()
        wrong = of(server.url.replace("//", "//:secret-wrong@"))
        await refuses(lambda: wrong.begin(ONE, 1))
        await wrong.close()


def make_pki(folder: Path) -> tuple[Path, Path, Path]:
    """A CA, and a certificate for 127.0.0.1 with its key."""
    now = dt.datetime.now(dt.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("ca"))
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = (
        builder("ca")
        .public_key(ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        builder("redis")
        .public_key(key.public_key())
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


async def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    ca, cert, key = make_pki(tmp_path)
    (tmp_path / "other").mkdir()
    other_ca, *_ = make_pki(tmp_path / "other")
    tls = {"tls_port": "1", "tls_ca_cert_file": ca, "tls_cert_file": cert, "tls_key_file": key}
    del tls["tls_port"]
    async with redis_server(tmp_path, tls="yes", **tls) as server:
        assert server.url.startswith("rediss://")
        swift = of(server.url, ca_file=str(ca), cert_file=str(cert), key_file=str(key))
        await everything(swift)
        assert (await swift.facts(Wall()))[0].is_tls
        await swift.close()
        for options in (
            {"ca_file": str(other_ca), "cert_file": str(cert), "key_file": str(key)},
            {"ca_file": str(ca)},
        ):
            stranger = of(server.url, **options)
            await refuses(lambda s=stranger: s.begin(ONE, 1))
            await stranger.close()


async def test_what_a_server_says_of_itself(tmp_path: Path) -> None:
    settings = {"appendfsync": "always", "maxmemory": "100mb", "min_replicas_to_write": "1"}
    async with redis_server(tmp_path, **settings) as primary, redis_replica(tmp_path, primary):
        swift = of(primary.url)
        (facts,) = await swift.facts(Wall())
        await swift.close()
        async with primary.client() as client:
            assert facts.run_id == (await client.info("server"))["run_id"]
    assert (facts.node, facts.mode, facts.role) == (f"127.0.0.1:{primary.port}", "single", "master")
    assert (facts.replicas, facts.maxmemory, facts.min_replicas_to_write) == (1, 100 * 2**20, "1")
    assert (facts.appendonly, facts.appendfsync, facts.save) == ("yes", "always", "")
    assert (facts.maxmemory_policy, facts.min_replicas_max_lag) == ("noeviction", "10")
    assert (facts.user, facts.is_tls, facts.sentinels) == ("default", False, None)
    assert facts.version.startswith("7.") or int(facts.version.partition(".")[0]) > 7
    assert abs(facts.clock_offset_s) < 60
    assert facts.used_memory > 0


async def test_a_server_without_config_get_is_not_guessed(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, server.client() as client:
        swift = of(server.url)
        (facts,) = await swift.facts(Wall())
        assert facts.appendonly == "yes"
        await client.execute_command("ACL", "SETUSER", "default", "-config", "-acl|whoami")
        (facts,) = await swift.facts(Wall())
        await swift.close()
    assert (facts.appendonly, facts.maxmemory, facts.maxmemory_policy, facts.user) == (None, None, None, "")


async def test_sentinels_say_how_many_they_are(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as primary,
        redis_replica(tmp_path, primary),
        redis_sentinels(tmp_path, primary) as sentinels,
    ):
        swift = of(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinels[0].port}/stepwrit")
        (facts,) = await swift.facts(Wall())
        await swift.close()
        assert (facts.mode, facts.sentinels, facts.quorum) == ("sentinel", 3, 2)
        unnamed = of(f"redis+sentinel://127.0.0.1:{sentinels[0].port}/other")
        await refuses(lambda: unnamed.begin(ONE, 1))
        await unnamed.close()
