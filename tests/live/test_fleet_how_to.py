"""docs/how-to/from-one-machine-to-a-fleet.md: its commands, on real engines, while the SDK calls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.world import AGENT, BASE, BROKER, DOMAIN, SERVER, World
from tests.live.test_rolling import Callers, client, done_more, root
from tests.rigs.debian import REPO, Machine
from tests.rigs.postgres import own, postgres_server

from stepwrit_broker.cli.scaffold_fleet import with_settings

PAGE = REPO / "docs/how-to/from-one-machine-to-a-fleet.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = (8443, 8444, 8441, 8442, 8451, 8452, 9461, 9462, 9464, 6379, 5432)
UNIT = "[Service]\nExecStart=/usr/local/bin/stepwrit broker --config /etc/stepwrit/broker.toml\n"
HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def parts() -> dict[str, list[str]]:
    """The blocks below each heading."""
    found: dict[str, list[str]] = {}
    for each in re.split(r"^#{2,3} ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        found[each.partition("\n")[0]] = BLOCK.findall(each)
    return found


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Each command, with the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    goes_on = False
    for line in block.splitlines():
        if line.startswith("# "):
            found.append((line[2:], []))
        elif goes_on or (not found[-1][1] and not _is_whole(found[-1][0])):
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found[-1][1].append(line)
        goes_on = line.endswith("\\")
    return found


def _is_whole(command: str) -> bool:
    """Whether the shell would not wait for more."""
    opened = len(re.findall(r"(?:^|\s)(?:\{|do)(?=\s|$)", command))
    return opened <= len(re.findall(r"\s(?:\}|done)(?=\s|;|$)", command))


def compared(machine: Machine, command: str, shown: list[str], said: str) -> None:
    """What is shown was printed, in this order; `[…]` is anything, `[...]` any lines."""
    lines = iter(said.splitlines())
    for wanted in shown:
        if wanted == "[...]":
            continue
        pattern = ".*".join(re.escape(each) for each in machine.here(wanted).split("[…]"))
        assert any(re.fullmatch(pattern, line) for line in lines), f"{command}: {wanted!r} is not in\n{said}"


async def follow(machine: Machine, part: str, *, begin: int = 0, end: int | None = None) -> str:
    """Run a part's commands one after the other; what the last one printed."""
    said = ""
    for block in parts()[part][begin:end]:
        for command, shown in commands(block):
            if command.startswith("cd "):
                continue
            said = await machine.run(f"umask 077\n{command}")
            compared(machine, command, shown, said)
    return said


@asynccontextmanager
async def prepared(folder: Path) -> AsyncGenerator[tuple[Machine, World]]:
    """A broker that stands alone, by `stepwrit init`, on a development issuer of SVIDs; and PostgreSQL."""
    async with AsyncExitStack() as stack:
        truth = await stack.enter_async_context(postgres_server())
        (truth.data / "pg_hba.conf").write_text(HBA)
        own(truth.data / "pg_hba.conf")
        machine = Machine(folder / "machine", ports=PORTS, words={"prod.example": DOMAIN})
        machine.ports[5432] = truth.port
        machine._furnish()
        machine.env = {
            "PGHOST": str(truth.folder), "PGPORT": str(truth.port), "PGUSER": "postgres",
            "STEPWRIT_CONFIG": str(machine.path("/etc/stepwrit/broker.toml")),
        }  # fmt: skip
        await machine.run("psql -qc 'SELECT pg_reload_conf()'")
        world = World(folder / "world")
        world.folder.mkdir()
        await world.start()
        stack.push_async_callback(world.stop)
        stack.callback(machine.end)
        await alone(machine, world)
        yield machine, world


async def alone(machine: Machine, world: World) -> None:
    etc = machine.path("/etc/stepwrit")
    await machine.run(
        f"stepwrit init /etc/stepwrit --trust-domain {DOMAIN} --issuer https://broker.{DOMAIN}:8444"
    )
    settings = {
        ("listen", "mtls"): "127.0.0.1:8443", ("listen", "tls"): "127.0.0.1:8444",
        ("listen", "mtls_url"): BASE,
        ("listen", "ops"): "127.0.0.1:9464", ("listen", "admin"): "unix:/run/stepwrit/admin.sock",
        ("store", "path"): "/var/lib/stepwrit/stepwrit.db", ("store", "anchor"): "/var/lib/stepwrit/a.anchor",
        ("store", "disk_reserve_bytes"): 1048576, ("ledger", "key_file"): "/var/lib/stepwrit/ledger.key",
    }  # fmt: skip
    text = with_settings((etc / "broker.toml").read_text(), settings).replace(BASE, "@BASE@")
    head = f'spiffe_socket = "{world.socket(BROKER)}"\n'
    tail = f'\n[[oidc]]\nissuer = "{world.issuer.url}"\nalgorithms = ["ES256"]\n'
    (etc / "broker.toml").write_text(head + machine.here(text).replace("@BASE@", BASE) + tail)
    limits = (world.folder / "limits.yaml").read_text()
    (etc / "limits.yaml").write_text(
        limits.replace("steps: 12", "steps: 5000").replace("fan_out: 10", "fan_out: 5000")
    )
    (etc / "registry.yaml").write_text((world.folder / "registry.yaml").read_text())
    (etc / "tls").mkdir()
    await machine.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=broker"
        " -keyout /etc/stepwrit/tls/key.pem -out /etc/stepwrit/tls/cert.pem"
    )
    machine.path("/etc/systemd/system/stepwrit.service").write_text(machine.here(UNIT))
    await machine.run(
        "systemctl start stepwrit\nuntil curl -fs http://127.0.0.1:9464/readyz; do sleep 0.3; done"
    )
    await machine.run("stepwrit freeze workload:spiffe://prod.example/old --reason 'long ago'")


@pytest.mark.live
async def test_the_how_to_works_as_it_stands(tmp_path: Path) -> None:
    async with prepared(tmp_path) as (machine, world), AsyncExitStack() as stack:
        agent = await client(world, AGENT, machine.ports[8443], stack)
        server = await client(world, SERVER, machine.ports[8443], stack)
        caller = Callers(agent, server, await root(agent, world))
        await called(caller, 2)
        for part in list(parts())[:7]:
            await follow(machine, part)
        caller.root = await root(agent, world)
        await called(caller, 2)
        status = json.loads(await machine.run("stepwrit fleet status --json"))
        assert status["marks"] == 1  # what was frozen before the move is frozen
        assert status["ledger"] == machine.here(f"broker.{DOMAIN}:8444/fleet")
        assert machine.here(f"broker.{DOMAIN}:8444") in await machine.run(
            "stepwrit tail --json --after -1 --admin /run/stepwrit/one/admin.sock | grep fleet.carried"
        )
        async with asyncio.timeout(240), asyncio.TaskGroup() as group:  # a failed call fails the test
            running = group.create_task(caller.run())
            await done_more([caller], 2)
            await follow(machine, "A rolling restart")
            await done_more([caller], 2)
            caller.stop.set()
            await running
        assert machine.path("/run/stepwrit/two/admin.sock").exists()
        await follow(machine, "When something breaks")
        secrets = [
            machine.path(f"/etc/stepwrit/{each}.password").read_text().strip()
            for each in ("redis", "postgres", "owner")
        ]
        assert not any(each in machine.last_words() for each in secrets)


async def called(caller: Callers, count: int) -> None:
    """A while of calls."""
    caller.stop.clear()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(caller.run())
        await done_more([caller], count)
        caller.stop.set()
    caller.stop.clear()
