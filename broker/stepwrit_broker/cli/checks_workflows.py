"""Whether a policy that looks for declared steps finds workflows in the registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stepwrit_broker.cli.check import Check
from stepwrit_broker.config import Config
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.policy.files import read_folder

_LOOKS: Final = re.compile(r"context has workflow|context\.workflow|input\.workflow")


def workflow_check(config: Config, registry: Registry | None) -> Iterator[Check]:
    """One check; none where neither the policy nor the registry speaks of workflows."""
    if registry is None:
        return
    looked_for, declared = _is_looked_for(config), registry.workflows
    if declared:
        steps = sum(len(each.steps) for each in declared)
        said = f"{len(declared)} registered, {steps} steps"
        todo = "no policy looks at `workflow`: take 20-servers of the stance workflow over into yours"
        ok = True if looked_for else None
        yield Check(name="workflows", ok=ok, said=said, todo=todo)
    elif looked_for:
        said = f"{config.files.policy} asks for declared steps, and registry.yaml declares none"
        todo = "declare what servers may start in registry.yaml (workflows); until then they start nothing"
        yield Check(name="workflows", ok=None, said=said, todo=todo)


def _is_looked_for(config: Config) -> bool:
    """A folder that does not load is told of elsewhere."""
    try:
        return any(_LOOKS.search(text) for text in read_folder(config.files.policy).values())
    except Problem:
        return False
