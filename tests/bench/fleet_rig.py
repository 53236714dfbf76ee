"""A fleet to be measured: Redis, PostgreSQL, `stepwrit broker` processes, and what each of them used."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx2
from tests.bench.world import BROKER, LIMITS, Domain
from tests.faults.process import Process
from tests.rigs.engines import ACCEPTED
from tests.rigs.postgres import PostgresServer, postgres_server
from tests.rigs.redis import RedisServer, redis_server

from stepwrit_broker.dev.ports import steady_port

DOMAIN = "bench.test"
READY_S = 60.0
SHARDS = 16
TICK = os.sysconf("SC_CLK_TCK")
# As an operator would set a server of this size; the rest is Debian's default, fsync and all.
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}
# AOF with an fsync a second, as the reference recommends. No rewrite: the file's growth is measured.
REDIS = {"auto_aof_rewrite_percentage": "0"}


class NotReadyError(RuntimeError):
    """A broker did not come up; its last words are in the message."""


def cpu_s(pid: int) -> tuple[float, float]:
    """User and system seconds of a process and all below it, those that ended included."""
    user = system = 0
    for each in (pid, *_below(pid)):
        words = _stat(each)
        if words:
            user += int(words[11]) + int(words[13])
            system += int(words[12]) + int(words[14])
    return user / TICK, system / TICK


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _below(pid: int) -> Iterator[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(each) for task in tasks for each in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield child
        yield from _below(child)


def resident(pid: int) -> int:
    """VmRSS in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@dataclass
class Member:
    """One broker process. url: its mtls listener; ops: its metrics."""

    name: str
    process: Process
    url: str
    ops: str

    async def ask(self, what: str) -> dict[str, float]:
        """`usage`, as a `Target`."""
        assert what == "usage"
        user, system = cpu_s(self.process.pid)
        return {"user": user, "system": system, "rss": float(resident(self.process.pid))}

    async def ready(self) -> None:
        """Raises NotReadyError when it is not within a minute."""
        try:
            async with asyncio.timeout(READY_S):
                while not await self._is_ready():
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise NotReadyError(f"{self.name} is not ready:\n{self.process.last_words()}") from None

    async def _is_ready(self) -> bool:
        if not self.process.pid:
            raise NotReadyError(f"{self.name} ended:\n{self.process.last_words()}")
        try:
            async with httpx2.AsyncClient(trust_env=False) as http:
                said = await http.get(f"{self.ops}/readyz", timeout=2.0)
        except httpx2.TransportError:
            return False
        return said.status_code == 200

    async def leads(self) -> bool:
        """Whether it carries the streams."""
        async with httpx2.AsyncClient(trust_env=False) as http:
            said = await http.get(f"{self.ops}/metrics", timeout=5.0)
        return "\nstepwrit_fleet_leads 1.0" in said.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the engines have used so far. CPU in seconds, the rest in bytes or counts."""

    redis_cpu: float
    postgres_cpu: float
    redis_memory: int
    redis_aof: int
    redis_wire: int
    redis_scripts: int
    redis_script_us: int
    wal: int
    wal_syncs: int
    commits: int
    ledger: int
    tables: int


_SIZES = """
SELECT coalesce(sum(size) FILTER (WHERE name LIKE 'ledger%'), 0)::bigint AS ledger,
  coalesce(sum(size) FILTER (WHERE name NOT LIKE 'ledger%'), 0)::bigint AS tables
FROM (SELECT c.relname AS name, pg_total_relation_size(c.oid) AS size
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'stepwrit' AND c.relkind = 'r') AS each
"""
_WAL = """
SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS wal, (SELECT wal_sync FROM pg_stat_wal) AS syncs,
  (SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'ledger_head') AS commits
"""


@dataclass
class Site:
    """Both engines and as many brokers as were added."""

    domain: Domain
    redis: RedisServer
    postgres: PostgresServer
    stack: AsyncExitStack
    profile: Path | None = None
    is_young: bool = False
    members: list[Member] = field(default_factory=list)

    async def grow(self, count: int) -> None:
        """Have this many brokers, all ready, in an epoch that is no longer young."""
        while len(self.members) < count:
            member = await self._add(f"b{len(self.members) + 1}")
            if not self.members and not self.is_young:
                await self._age(member)
            self.members.append(member)

    async def _age(self, member: Member) -> None:
        """Within 15 minutes of an epoch's begin each proof is looked up in PostgreSQL as well."""
        await member.process.end()
        conn = await asyncpg.connect(self.postgres.dsn)
        try:
            await conn.execute("UPDATE stepwrit.fleet SET began_at = began_at - 3600")
        finally:
            await conn.close()
        await member.process.start()
        await member.ready()

    async def _add(self, name: str) -> Member:
        mtls, ops = steady_port(), steady_port()
        config = self._config(name, mtls, ops)
        command = [str(Path(sys.executable).with_name("stepwrit")), "broker", "--config", str(config)]
        if self.profile is not None:
            out = self.profile.with_name(f"{self.profile.name}.{name}")
            command = [sys.executable, "-m", "tests.bench.profiled", str(out), *command]
        process = Process(name, command, log=self.domain.folder / f"{name}.log")
        await process.start()
        self.stack.push_async_callback(process.end)
        member = Member(name, process, f"https://127.0.0.1:{mtls}", f"http://127.0.0.1:{ops}")
        await member.ready()
        return member

    def _config(self, name: str, mtls: int, ops: int) -> Path:
        folder, accept = self.domain.folder, ", ".join(f'"{each}"' for each in ACCEPTED)
        own = folder / name
        (own / "anchor").mkdir(parents=True)
        path = own / "broker.toml"
        path.write_text(
            f'trust_domain = "{DOMAIN}"\nissuer = "https://broker.bench.example"\n'
            f'broker_id = "{self.domain.id(BROKER)}"\n'
            f'spiffe_socket = "{self.domain.trust.socket_for(BROKER)}"\n'
            f'[listen]\nmtls = "127.0.0.1:{mtls}"\nmtls_url = "https://127.0.0.1:{mtls}"\n'
            f'tls = ""\nops = "127.0.0.1:{ops}"\n'
            f'admin = "unix:{own}/admin.sock"\ndrain_s = 0\n'
            f'[store]\npath = "{own}/none"\nanchor = "{own}/anchor/a"\n'
            f'[ledger]\nkey_file = "{folder}/ledger.key"\norigin = "{DOMAIN}/bench"\n'
            f'[files]\nregistry = "{folder}/registry.yaml"\nlimits = "{folder}/limits.yaml"\n'
            f'policy = "{folder}/policy"\n'
            f'[[oidc]]\nissuer = "{self.domain.issuer.url}"\nalgorithms = ["ES256"]\n'
            f'[fleet]\nredis = "{self.redis.url}"\npostgres = "{self.postgres.dsn}"\nbroker = "{name}"\n'
            f"shards = {SHARDS}\naccept = [{accept}]\n"
        )
        return path

    async def read(self) -> Reading:
        """Now."""
        async with self.redis.client() as client:
            said = await client.info("everything")
        calls = [each for name, each in said.items() if name.startswith("cmdstat_evalsha")]
        conn = await asyncpg.connect(self.postgres.dsn)
        try:
            wal, sizes = await conn.fetchrow(_WAL), await conn.fetchrow(_SIZES)
        finally:
            await conn.close()
        assert wal is not None
        assert sizes is not None
        return Reading(
            redis_cpu=sum(cpu_s(self.redis.process.pid)),
            postgres_cpu=self.postgres.cpu_s(),
            redis_memory=said["used_memory"],
            redis_aof=said["aof_current_size"],
            redis_wire=said["total_net_input_bytes"] + said["total_net_output_bytes"],
            redis_scripts=sum(each["calls"] for each in calls),
            redis_script_us=sum(each["usec"] for each in calls),
            wal=wal["wal"],
            wal_syncs=wal["syncs"],
            commits=wal["commits"],
            ledger=sizes["ledger"],
            tables=sizes["tables"],
        )


@contextmanager
def truth() -> Iterator[PostgresServer]:
    """PostgreSQL, started by a loop of its own: uvloop's cannot start a process as another user."""
    with asyncio.Runner() as runner:
        context = postgres_server(**POSTGRES)
        server = runner.run(context.__aenter__())
        try:
            yield server
        finally:
            runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def site(
    folder: Path, postgres: PostgresServer, profile: Path | None = None, *, is_young: bool = False
) -> AsyncIterator[Site]:
    """Redis, identities and files; no broker yet. All ended on leaving, brokers first."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(folder, **REDIS))
        domain = Domain(folder, DOMAIN)
        await domain.start()
        stack.push_async_callback(domain.stop)
        # a burst that is over in a microsecond would refuse whatever comes out of order
        (folder / "limits.yaml").write_text(LIMITS.replace("999999999/s", "1000000/s"), encoding="utf-8")
        yield Site(domain, redis, postgres, stack, profile, is_young)
