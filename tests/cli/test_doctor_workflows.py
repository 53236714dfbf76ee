"""`stepwrit doctor` on workflows: a policy that looks for declared steps, a registry that declares them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_workflows import workflow_check
from stepwrit_broker.cli.scaffold import write_init
from stepwrit_broker.config import load_config
from stepwrit_broker.registry.files import load_registry

EXAMPLE = Path(__file__).parents[2] / "deploy" / "policies" / "scenarios" / "registry" / "month-end.yaml"


def checks(folder: Path, stance: str, engine: str, registry: str) -> list[Check]:
    write_init(folder, "prod.example", "https://stepwrit.prod.example", stance_name=stance, engine=engine)
    _, read = load_registry(registry, name="registry.yaml")
    return list(workflow_check(load_config(folder / "broker.toml", env={}), read))


@pytest.mark.parametrize("engine", ["cedar", "opa"])
def test_a_policy_and_a_registry_that_fit(tmp_path: Path, engine: str) -> None:
    (found,) = checks(tmp_path, "workflow", engine, EXAMPLE.read_text())
    assert (found.name, found.ok, found.said) == ("workflows", True, "2 registered, 6 steps")


@pytest.mark.parametrize("engine", ["cedar", "opa"])
def test_a_policy_that_waits_for_declarations_that_nobody_made(tmp_path: Path, engine: str) -> None:
    text = EXAMPLE.read_text()
    (found,) = checks(tmp_path, "workflow", engine, text[: text.index("workflows:")] + "count: 6\n")
    assert found.ok is None
    assert "declares none" in found.said
    assert "until then they start nothing" in found.todo


def test_declarations_that_no_policy_looks_at(tmp_path: Path) -> None:
    (found,) = checks(tmp_path, "approval", "cedar", EXAMPLE.read_text())
    assert found.ok is None
    assert "20-servers" in found.todo


def test_nothing_is_said_where_nobody_speaks_of_workflows(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert not checks(tmp_path, "approval", "cedar", text[: text.index("workflows:")] + "count: 6\n")


def test_files_that_do_not_load_are_told_of_elsewhere(tmp_path: Path) -> None:
    write_init(tmp_path, "prod.example", "https://stepwrit.prod.example", stance_name="workflow")
    config = load_config(tmp_path / "broker.toml", env={})
    _, registry = load_registry(EXAMPLE.read_text(), name="registry.yaml")
    assert not list(workflow_check(config, None))
    (tmp_path / "policy" / "bad.cedar").write_bytes(b"\xff")
    (found,) = workflow_check(config, registry)
    assert found.ok is None
