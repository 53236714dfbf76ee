"""What SPIRE gives is what SDK and broker take: SVIDs, JWT-SVIDs, hints, bundles; what is said without."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import httpx2
import pytest
from tests.fakes.bearer import Bearer
from tests.fakes.stage import ARGS, ISSUER, Stage, redeemed
from tests.live.spire.conftest import LONE

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit_broker.dev.spire import OidcDiscoveryProvider, SpireDomain, copy_python, own_executable
from stepwrit_broker.dev.tools import ToolMissing, find

WHO = """
import sys
from stepwrit.identity import WorkloadIdentity
identity = WorkloadIdentity(sys.argv[1])
identity.start_sync()
try:
    print(identity.wait_ready_sync(float(sys.argv[2])).spiffe_id)
except Exception as missing:
    print(type(missing).__name__, missing)
identity.close_sync()
"""


async def who(spire: SpireDomain, python: Path, *, within_s: float = 30.0) -> str:
    command = [str(python), "-c", WHO, spire.socket, str(within_s)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def ready(identity: WorkloadIdentity) -> WorkloadIdentity:
    await identity.start()
    await identity.wait_ready(30)
    return identity


async def test_the_whole_cycle_runs_on_svids_from_spire(stage: Stage) -> None:
    held = await stage.held()
    (await held.redeem()).ok()
    assert redeemed(stage, held.txn) == 1
    again = await held.redeem()
    assert again.code == "replay"
    assert (await (await stage.actor("mcp-server/ledger")).close(held.step)).status == 200


async def test_a_jwt_svid_from_spire_opens_an_intent_on_the_tls_listener(stage: Stage) -> None:
    identity = await stage.identity(LONE)
    svid = await asyncio.to_thread(identity.jwt_svid, ISSUER)
    caller, actor = Bearer(stage=stage, path=LONE, svid=svid), await stage.actor(LONE)
    form = actor.intent_form(stage.issuer.mint("alice", client_id="lone-app"))
    no_nonce = await caller.form(form, proof=caller.proof("/oauth/token", nonce=None))
    assert no_nonce.code == "use_dpop_nonce"
    opened = (await caller.form(form)).ok()
    ask = {"v": 1, "parent": opened["step"], "server": "ledger", "tool": "transfer", "args": ARGS}
    step = await caller.json("/v1/steps", ask)
    assert step.ok()["txn"] == opened["txn"]
    other = await asyncio.to_thread(identity.jwt_svid, "https://elsewhere.example")
    assert (await caller.holding(other).form(form)).status == 401


async def test_a_process_with_several_svids_is_the_one_of_its_hint(spire: SpireDomain) -> None:
    for path in ("agent/other", "resource/bank/1"):
        identity = await ready(WorkloadIdentity(spire.socket, hint=path))
        assert identity.snapshot().spiffe_id == spire.id_of(path)
        await identity.close()
    first = await ready(WorkloadIdentity(spire.socket))
    await first.close()
    nobody = WorkloadIdentity(spire.socket, hint="agent/nobody")
    await nobody.start()
    with pytest.raises(IdentityUnavailable, match=r"hint 'agent/nobody'; it offers .*'agent/other'"):
        await nobody.wait_ready(2)
    await nobody.close()


async def test_an_executable_without_an_entry_is_told_what_is_missing(
    spire: SpireDomain, tmp_path: Path
) -> None:
    python = await spire.program("mcp-server/known")
    assert await who(spire, python) == spire.id_of("mcp-server/known")
    stranger = copy_python(tmp_path / "stranger")
    said = await who(spire, stranger, within_s=2.0)
    for part in ("IdentityUnavailable", spire.socket, f"uid {os.geteuid()}", str(stranger), "entry matches"):
        assert part in said


async def test_without_an_agent_the_error_names_the_socket(spire: SpireDomain, tmp_path: Path) -> None:
    absent = WorkloadIdentity(f"unix://{tmp_path}/none.sock")
    await absent.start()
    with pytest.raises(IdentityUnavailable, match=r"none\.sock: is the SPIRE agent running"):
        await absent.wait_ready(1)
    await absent.close()


async def test_the_discovery_provider_publishes_the_jwt_authorities_of_the_bundle(spire: SpireDomain) -> None:
    watch = JwtBundleWatch(spire.socket)
    watch.start()
    async with OidcDiscoveryProvider(spire.server, spire.folder / "o") as oidc, httpx2.AsyncClient() as http:
        keys = (await http.get(f"{oidc.url}/keys")).json()["keys"]
        about = (await http.get(f"{oidc.url}/.well-known/openid-configuration")).json()
    bundle = json.loads(await spire.server.api.bundle())
    ours = {key["kid"] for key in bundle["keys"] if key["use"] == "jwt-svid"}
    assert {key["kid"] for key in keys} == ours
    assert about["issuer"].startswith("http")
    async with asyncio.timeout(30):
        while _kids(watch, spire) != ours:
            await asyncio.sleep(0.05)
    watch.close()


def _kids(watch: JwtBundleWatch, spire: SpireDomain) -> set[str]:
    return set(watch.current().by_domain.get(spire.trust_domain, {}))


async def test_a_deleted_entry_ends_the_identity(spire: SpireDomain) -> None:
    await spire.enrol("agent/brief")
    identity = await ready(WorkloadIdentity(spire.socket, hint="agent/brief"))
    assert identity.health().state == "ok"
    await spire.expel("agent/brief")
    async with asyncio.timeout(60):
        while identity.health().state != "withdrawn":
            await asyncio.sleep(0.05)
    with pytest.raises(IdentityUnavailable, match="agent/brief"):
        identity.snapshot()
    await identity.close()


def test_a_missing_program_says_make_tools(tmp_path: Path) -> None:
    assert find("spire-server").exists()
    with pytest.raises(ToolMissing, match="make tools"):
        find("spire-server", {"STEPWRIT_TOOLS": str(tmp_path), "PATH": str(tmp_path)})


def test_this_process_is_seen_by_its_real_executable() -> None:
    assert own_executable() == Path(f"/proc/{os.getpid()}/exe").resolve()
