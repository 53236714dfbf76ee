"""How brokers come to the true engine: tables and their versions, their role, TLS, what the server is."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.contracts.truth_suite import SHARDS, mark, new, said, work
from tests.fakes.fleet_log import SmallLog
from tests.fleet.conftest import connected
from tests.rigs.postgres import as_owner, own, postgres_server, programs

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.postgres import schema
from stepwrit_broker.store.fleet.postgres.session import Session, connect
from stepwrit_broker.store.fleet.postgres.truth import PostgresTruth, open_truth
from stepwrit_broker.store.fleet.seams import Numbered, OpDone, RuleChange, Used

pytestmark = pytest.mark.live


async def opened(dsn: str, shards: int = SHARDS, **more: object) -> PostgresTruth:
    return await open_truth(Session(dsn=dsn, **more), SmallLog(), SystemClock(), shards=shards)  # type: ignore[arg-type]


class TestTables:
    async def test_brokers_that_start_at_once(self, database):
        truths = await asyncio.gather(*(opened(database("postgres")) for _ in range(8)))
        found = {(await each.standing()).epoch for each in truths}
        assert len(found) == 1
        assert set(await truths[0].positions(found.pop())) == set(range(SHARDS))
        for each in truths:
            await each.close()

    async def test_a_newer_schema_is_refused(self, database):
        await (await opened(database("postgres"))).close()
        async with connected(database("postgres")) as conn:
            await conn.execute("UPDATE stepwrit.meta SET value = $1", str(schema.VERSION + 1))
        with pytest.raises(Unavailable, match="newer broker"):
            await opened(database("postgres"))

    async def test_an_older_schema_is_brought_up_once(self, database):
        later = {
            **schema.MIGRATIONS,
            schema.VERSION + 1: "CREATE TABLE more (n int); INSERT INTO more VALUES (1)",
        }
        async with connected(database("postgres")) as conn:
            await schema.migrate(conn, SmallLog(), shards=SHARDS)
            epoch = await conn.fetchval("SELECT epoch FROM stepwrit.fleet")
        async with connected(database("postgres")) as one, connected(database("postgres")) as other:
            await asyncio.gather(
                *(schema.migrate(each, SmallLog(), shards=SHARDS, migrations=later) for each in (one, other))
            )
            assert await schema.version(one) == schema.VERSION + 1
            assert await one.fetchval("SELECT count(*) FROM stepwrit.more") == 1
            assert await one.fetchval("SELECT epoch FROM stepwrit.fleet") == epoch

    async def test_a_migration_that_fails_changes_nothing(self, database):
        broken = {**schema.MIGRATIONS, schema.VERSION + 1: "CREATE TABLE more (n int); SELECT 1 / 0"}
        async with connected(database("postgres")) as conn:
            await schema.migrate(conn, SmallLog(), shards=SHARDS)
            with pytest.raises(asyncpg.DivisionByZeroError):
                await schema.migrate(conn, SmallLog(), shards=SHARDS, migrations=broken)
            assert await schema.version(conn) == schema.VERSION
            assert await conn.fetchval("SELECT to_regclass('stepwrit.more')") is None

    async def test_shards_are_for_good(self, database):
        await (await opened(database("postgres"))).close()
        with pytest.raises(Unavailable, match=f"has {SHARDS} shards"):
            await opened(database("postgres"), shards=SHARDS + 1)
        with pytest.raises(Unavailable, match="1 to 256 shards"):
            await opened(database("postgres"), shards=257)

    async def test_another_applications_tables_are_left_alone(self, database):
        async with connected(database("postgres")) as conn:
            await conn.execute("CREATE TABLE fleet (mine int); INSERT INTO fleet VALUES (1)")
        truth = await opened(database("postgres"))
        assert (await truth.standing()).order == 1
        await truth.close()
        async with connected(database("postgres")) as conn:
            assert await conn.fetchval("SELECT mine FROM public.fleet") == 1


FORBIDDEN = (
    "UPDATE uses SET nth = 0", "DELETE FROM uses", "TRUNCATE uses",
    "UPDATE entries SET body = ''", "DELETE FROM entries",
    "UPDATE proofs SET until = 0", "DELETE FROM proofs", "DELETE FROM ops", "DELETE FROM pins",
    "UPDATE versions SET doc = ''", "DELETE FROM versions", "DELETE FROM works",
    "UPDATE epochs SET nth = 9", "DELETE FROM epochs", "DELETE FROM fleet", "DELETE FROM shards",
    "UPDATE secrets SET value = ''", "DELETE FROM secrets",
    "UPDATE meta SET value = '0'", "CREATE TABLE mine ()", "DROP TABLE uses",
    "ALTER TABLE uses DROP CONSTRAINT uses_pkey",
)  # fmt: skip


class TestRole:
    async def test_a_broker_can_serve_and_change_nothing_that_was_said(self, database):
        async with connected(database("postgres")) as conn:
            await conn.execute('CREATE ROLE "a broker" LOGIN')
            await schema.migrate(conn, SmallLog(), shards=SHARDS, brokers=["a broker"])
        truth = await opened(database("a broker").replace(" ", "%20"))
        epoch = (await truth.standing()).epoch
        whole = work(
            new("txn_1"), entries=(said("x"),), uses=("grt_1",), proofs=(Used(b"p" * 16, 9e9),),
            ops=(OpDone(b"o" * 16, "d", "a", 1e9),), salts=(("txn_1", b"s"),),
        )  # fmt: skip
        await truth.commit(epoch, [(Numbered(1, 1, encode(whole)), whole)])
        await truth.say([said("y")], [], [])
        await truth.rule(RuleChange(put=(mark("tool:x"),)))
        await truth.next_epoch(epoch, "a" * 32)
        assert await truth.lead("me", 1)
        await truth.secret(b"s" * 32)
        await truth.pin(b"k" * 16, "jkt", 9e9, [])
        async with connected(database("a broker").replace(" ", "%20")) as conn:
            await conn.execute("SET search_path = stepwrit")
            assert await conn.fetchval("SELECT count(*) FROM uses") == 1
            for statement in FORBIDDEN:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(statement)
        await truth.close()

    async def test_a_purge_by_a_clock_that_is_ahead_forgets_nothing_of_now(self, database):
        async with connected(database("postgres")) as conn:
            await conn.execute("CREATE ROLE hasty LOGIN")
            await schema.migrate(conn, SmallLog(), shards=SHARDS, brokers=["hasty"])
        truth = await opened(database("hasty"))
        until = SystemClock().now() + 60
        old, fresh = Used(b"o" * 16, until - 3600), Used(b"f" * 16, until)
        one = work(proofs=(old, fresh), uses=("grt_1",))
        await truth.commit((await truth.standing()).epoch, [(Numbered(1, 1, encode(one)), one)])
        assert await truth.purge(until + 1e6, 100) == 1
        assert await truth.used([old.key, fresh.key]) == {fresh.key}
        await truth.close()

    async def test_a_role_that_may_not_make_tables_is_told_so(self, database):
        async with connected(database("postgres")) as conn:
            await conn.execute("CREATE ROLE stranger LOGIN")
        with pytest.raises(Unavailable, match="as the tables' owner"):
            await opened(database("stranger"))
        async with connected(database("postgres")) as conn:
            with pytest.raises(Unavailable, match="no role 'nobody-here'"):
                await schema.migrate(conn, SmallLog(), shards=SHARDS, brokers=["nobody-here"])
            assert await schema.version(conn) == 0


@pytest.fixture
def certificate() -> Iterator[tuple[Path, Path]]:
    """A server's certificate for 127.0.0.1, its own authority, and its key; readable by the server."""
    folder = own(Path(tempfile.mkdtemp(prefix="stepwrit-pg-tls-")))
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pg")]),
    )
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "server.crt", folder / "server.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    secret.chmod(0o600)
    own(secret)
    yield cert, secret
    shutil.rmtree(folder)


async def test_tls_is_verified(certificate):
    cert, key = certificate
    hba = cert.with_name("pg_hba.conf")
    hba.write_text("hostssl all all all trust\n")
    async with postgres_server(ssl=True, ssl_cert_file=cert, ssl_key_file=key, hba_file=hba) as server:
        known = ssl.create_default_context(cafile=cert)
        truth = await opened(server.dsn, tls=known)
        assert (await truth.facts()).is_tls
        await truth.close()
        by_dsn = await opened(f"{server.dsn}?sslmode=verify-full&sslrootcert={cert}")
        assert (await by_dsn.facts()).is_tls
        await by_dsn.close()
        with pytest.raises(Unavailable):
            await opened(server.dsn, tls=ssl.create_default_context())  # whoever signed it is not known
        with pytest.raises(Unavailable):
            await opened(
                server.dsn.replace("127.0.0.1", "localhost"), tls=ssl.create_default_context(cafile=cert)
            )
        with pytest.raises(Unavailable):
            await opened(f"{server.dsn}?sslmode=disable")


class TestFacts:
    async def test_what_is_promised_is_read(self):
        unsafe = {"fsync": False, "full_page_writes": False, "synchronous_commit": False}
        async with postgres_server(**unsafe) as server:
            truth = await opened(server.dsn)
            found = await truth.facts()
            assert (found.fsync, found.full_page_writes) == ("off", "off")
            assert found.synchronous_commit == "on"  # our sessions never wait for less
            assert (found.node, found.version // 10000 >= 14) == (f"127.0.0.1:{server.port}", True)
            assert (found.is_standby, found.is_superuser, found.is_tls) == (False, True, False)
            assert abs(found.clock_offset_s) < 5
            assert abs(await truth.clock_offset()) < 5
            await truth.close()

    async def test_a_clock_that_is_off_shows(self, database):
        class Late:
            def now(self) -> float:
                return SystemClock().now() - 100

        truth = await open_truth(Session(dsn=database("postgres")), SmallLog(), Late(), shards=SHARDS)
        assert 90 < await truth.clock_offset() < 200
        await truth.close()

    async def test_sessions_are_set(self, database):
        session = Session(dsn=database("postgres"), synchronous_commit="remote_apply", idle_s=1.5, lock_s=4)
        conn = await connect(session)
        wanted = {
            "synchronous_commit": "remote_apply", "idle_in_transaction_session_timeout": "1500ms",
            "lock_timeout": "4s", "statement_timeout": "10s", "search_path": "stepwrit",
        }  # fmt: skip
        assert {name: await conn.fetchval(f"SHOW {name}") for name in wanted} == wanted
        await conn.close()

    async def test_a_standby_is_refused_and_a_synchronous_one_counted(self):
        async with postgres_server(wal_level="replica", max_wal_senders=4) as primary:
            truth = await opened(primary.dsn)
            assert (await truth.facts()).sync_standbys == 0
            data = primary.folder / "standby"
            copied = await asyncio.create_subprocess_exec(
                str(programs() / "pg_basebackup"), "-D", str(data), "-R", "-X", "stream", "-c", "fast",
                "-d", f"{primary.dsn}?application_name=two", cwd=primary.folder, stderr=subprocess.PIPE,
                **as_owner(),
            )  # fmt: skip
            _, said_ = await copied.communicate()
            assert copied.returncode == 0, said_
            async with postgres_server(data=data) as standby:
                with pytest.raises(Unavailable, match="is a standby"):
                    await opened(standby.dsn)
                async with connected(primary.dsn) as conn:
                    await conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (two)'")
                    await conn.execute("SELECT pg_reload_conf()")
                for _ in range(100):
                    found = await truth.facts()
                    if found.sync_standbys:
                        break
                    await asyncio.sleep(0.1)
                assert (found.sync_standbys, found.synchronous_standby_names) == (1, "FIRST 1 (two)")
                await truth.rule(RuleChange(put=(mark("tool:x"),)))
                both = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
                several = await opened(
                    f"postgresql://postgres@{both}/postgres?target_session_attrs=read-write"
                )
                assert (await several.facts()).node == f"127.0.0.1:{primary.port}"
                await several.close()
            await truth.close()
