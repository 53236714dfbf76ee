"""What `stepwrit spire entries` prints, fed to a real SPIRE; its own comparison and doctor agree."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stepwrit_broker.dev import tools
from stepwrit_broker.dev.spire import SpireDomain, copy_python
from stepwrit_broker.dev.spire.interpreter import shared_library

HOME, PARTNER, SYNC_S = "entries.test", "partner.test", 30.0
REGISTRY = """\
version: 1
tenant: default
trust_domains: [partner.test]
entries:
  - {id: spiffe://entries.test/stepwrit/broker, role: broker, name: stepwrit}
  - {id: spiffe://entries.test/ledger-mcp, role: mcp-server, name: ledger, tools: {note: {impact: low}}}
  - id: spiffe://entries.test/agent/chat
    role: agent
    name: chat
    attest: [x509, jwt]
    may_start: {tools: [], impact: low}
count: 3
"""
RUN = "from stepwrit_broker.cli import main; main()"
FETCH = """
import sys
from stepwrit._look import offered_x509
from stepwrit._workload_api import fetch_jwt_svid
socket, audience = sys.argv[1:]
[mine] = offered_x509(socket)
for _ in range(2):
    print(mine.spiffe_id, fetch_jwt_svid(socket, audience, spiffe_id=None, timeout=5.0))
"""


class Place:
    """An operator's shell beside a SPIRE domain."""

    def __init__(self, domain: SpireDomain, folder: Path) -> None:
        self.domain, self.folder, self.etc = domain, folder, folder / "etc"
        self.pythons = {name: copy_python(folder / name) for name in ("broker", "ledger", "chat")}
        init = ("init", self.etc, "--trust-domain", HOME, "--issuer", "https://stepwrit.entries.test:8444")
        assert self.stepwrit(*init).returncode == 0
        (self.etc / "registry.yaml").write_text(REGISTRY)
        told = ("--config", self.etc / "broker.toml", "--parent-id", domain.agent.spiffe_id)
        self.told = [*told, *(word for name in self.pythons for word in self._selector(name))]

    def _selector(self, name: str) -> tuple[str, str]:
        return "--selector", f"{name}=unix:path:{self.pythons[name]}"

    def stepwrit(self, *words: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """The command, run by the executable that is the broker here."""
        return self.run("broker", RUN, *words, given=given)

    def run(
        self, name: str, program: str, *words: object, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        bare = {k: v for k, v in os.environ.items() if not k.startswith(("STEPWRIT_", "SPIFFE_"))}
        env: Mapping[str, str] = bare | shared_library() | {"SPIFFE_ENDPOINT_SOCKET": self.domain.socket}
        command = [str(self.pythons[name]), "-c", program, *map(str, words)]
        return subprocess.run(command, input=given, text=True, env=env, capture_output=True, check=False)

    def entries(self, *more: object, given: str | None = None) -> tuple[int, dict[str, Any]]:
        ran = self.stepwrit("spire", "entries", *self.told, *more, "--json", given=given)
        return ran.returncode, json.loads(ran.stdout)

    async def have(self) -> str:
        return await self.domain.server.api.run("entry", "show", "-output", "json")

    def checks(self) -> dict[str, Any]:
        ran = self.stepwrit("doctor", "--config", self.etc / "broker.toml", "--json")
        return {each["name"]: each for each in json.loads(ran.stdout)["checks"]}


async def test_from_an_existing_spire_to_a_broker_that_doctor_likes(tmp_path: Path):
    async with SpireDomain(HOME) as domain:
        place = Place(domain, tmp_path)
        api = domain.server.api
        assert "register" in place.checks()["spiffe"]["todo"]  # the control: nobody is anybody yet
        code, missing = place.entries("--have", "-", given=await api.run("entry", "show", "-output", "json"))
        assert (code, len(missing["entries"])) == (1, 3)

        await api.set_bundle(PARTNER, await api.bundle())  # any bundle does: it is only handed on
        code, printed = place.entries()
        assert (code, printed["unfinished"]) == (0, [])
        await api.ask("entry", "create", "-data", "-", given=json.dumps(printed))

        code, left = place.entries("--have", "-", given=await place.have())
        assert (code, left["entries"], left["updates"]) == (0, [], [])

        checks = await _green(place)
        assert checks["spiffe"]["said"] == f"spiffe://{HOME}/stepwrit/broker"
        assert PARTNER in checks["bundles"]["said"]
        assert checks["jwt-svid"]["ok"] is True

        fetched = place.run("chat", FETCH, domain.socket, "https://stepwrit.entries.test:8444").stdout.split()
        assert {fetched[0], fetched[2]} == {f"spiffe://{HOME}/agent/chat"}
        assert fetched[1] == fetched[3]  # the agent's cache: whoever shares an ID here has to share a key too


async def test_what_somebody_changed_is_found_and_the_printed_update_mends_it(tmp_path: Path):
    async with SpireDomain(HOME) as domain:
        place, api = Place(domain, tmp_path), domain.server.api
        await api.set_bundle(PARTNER, await api.bundle())
        await api.ask("entry", "create", "-data", "-", given=json.dumps(place.entries()[1]))
        assert place.entries("--have", "-", given=await place.have())[0] == 0

        broken = [each for each in await api.entries() if each["spiffe_id"]["path"] != "/ledger-mcp"]
        for each in broken:
            selectors = [
                word for s in each["selectors"] for word in ("-selector", f"{s['type']}:{s['value']}")
            ]
            place_of = ("-spiffeID", _id(each["spiffe_id"]), "-parentID", _id(each["parent_id"]), *selectors)
            await api.ask("entry", "update", "-entryID", each["id"], *place_of, "-jwtSVIDTTL", "3600")

        code, found = place.entries("--have", "-", given=await place.have())
        assert (code, found["entries"], len(found["updates"])) == (1, [], 2)
        ran = place.stepwrit("spire", "entries", *place.told, "--have", "-", given=await place.have())
        _in_shell(ran.stdout, domain, tmp_path)
        code, left = place.entries("--have", "-", given=await place.have())
        assert (code, left["updates"]) == (0, [])


def _id(said: Mapping[str, str]) -> str:
    return f"spiffe://{said['trust_domain']}{said['path']}"


def _in_shell(script: str, domain: SpireDomain, folder: Path) -> None:
    """As an operator pipes it into sh, with a `spire-server` that knows its own socket."""
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "spire-server"
    program, private = tools.find("spire-server"), domain.server.socket
    wrapper.write_text(f'#!/bin/sh\nexec {program} "$@" -socketPath {private}\n')
    wrapper.chmod(0o700)
    env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-eu"], input=script, text=True, env=env, check=True)


async def _green(place: Place) -> dict[str, Any]:
    """The SPIFFE checks once the agent has heard of the entries."""
    wanted = ("spiffe socket", "spiffe", "svid life", "svid clock", "bundles", "jwt bundles", "jwt-svid")
    async with asyncio.timeout(SYNC_S):
        while True:
            found = await asyncio.to_thread(place.checks)
            if all(found.get(name, {"ok": False})["ok"] for name in wanted):
                return found
            await asyncio.sleep(0.5)
    pytest.fail("unreachable")
