"""The development broker's registrations: a bad one changes nothing, a moved server takes its place."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.dev.broker import DevBroker
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.entries import dev_id


@pytest.fixture
async def dev() -> AsyncIterator[DevBroker]:
    with tempfile.TemporaryDirectory(prefix="sw-dev-", dir="/tmp") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DevelopmentModeWarning)
        async with DevBroker(Path(folder)) as made:
            yield made


def names(dev: DevBroker) -> set[str]:
    return {entry.name for entry in dev.broker.live.now_in_force().registry.entries}


async def in_force(dev: DevBroker) -> dict[str, Any]:
    stored = await dev.broker.store.version("registry")
    assert stored is not None
    registry: dict[str, Any] = json.loads(stored.doc)
    del registry["count"]  # which belongs at the end
    return registry


async def test_a_new_server_on_the_url_of_an_old_one_takes_its_place(dev: DevBroker) -> None:
    await dev.register("ledger", "http://127.0.0.1:8000/mcp", [{"name": "pay"}])
    assert "ledger" in names(dev)
    await dev.register("notes", "http://127.0.0.1:8000/mcp", [{"name": "add"}])
    assert {"notes"} <= names(dev)
    assert "ledger" not in names(dev)


async def test_what_an_operator_set_of_a_server_stays_when_its_tools_change(dev: DevBroker) -> None:
    await dev.register("ledger", "http://127.0.0.1:8000/mcp", [{"name": "pay"}])
    registry = await in_force(dev)
    ledger = next(each for each in registry["entries"] if each["name"] == "ledger")
    ledger["may_start"] = {"tools": ["client/sampling"], "impact": "low"}
    ledger["tools"]["pay"]["without_step"] = "root"
    bank = {
        "id": dev_id("resource/bank"),
        "role": "resource",
        "name": "bank",
        "audience": "http://127.0.0.1:8100",
    }
    registry["entries"].append(bank)
    (dev.folder / "registry.yaml").write_text(json.dumps({**registry, "count": len(registry["entries"])}))
    await dev.broker.files.apply("registry")
    assert "bank" in names(dev)
    await dev.register("ledger", "http://127.0.0.1:8000/mcp", [{"name": "pay"}, {"name": "new"}])
    after = (await in_force(dev))["entries"]
    now = next(each for each in after if each["name"] == "ledger")
    assert (now["may_start"], now["tools"]["pay"]) == (ledger["may_start"], ledger["tools"]["pay"])
    assert set(now["tools"]) == {"pay", "new"}
    assert "bank" in names(dev)


async def test_a_bad_registration_is_told_and_kept_nowhere(dev: DevBroker) -> None:
    await dev.register("ledger", "http://127.0.0.1:8000/mcp", [{"name": "pay"}])
    with pytest.raises(Malformed):
        await dev.register("notes", "not a url", [{"name": "add"}])
    assert "ledger" in names(dev)
    assert "notes" not in (dev.folder / "registered.json").read_text()
    async with httpx2.AsyncClient(base_url=dev.issuer.url) as http:
        bad = await http.post(
            "/register", json={"name": "notes", "url": "not a url", "tools": [{"name": "add"}]}
        )
        assert bad.status_code == 400
        nobody = await http.post("/identity", json={"path": "not a path/.."})
        assert nobody.status_code == 400
        token = (await http.post("/mint", json={"sub": "alice"})).json()["id_token"]
        assert token.count(".") == 2


async def test_a_restart_keeps_servers_and_ports(dev: DevBroker) -> None:
    await dev.register("ledger", "http://127.0.0.1:8000/mcp", [{"name": "pay"}])
    before = json.loads((dev.folder / "dev.json").read_text())
    await dev.__aexit__()
    async with DevBroker(dev.folder) as again:
        after = json.loads((dev.folder / "dev.json").read_text())
        assert "ledger" in names(again)
        assert (after["broker"], after["oidc"]) == (before["broker"], before["oidc"])
    await dev.__aenter__()
