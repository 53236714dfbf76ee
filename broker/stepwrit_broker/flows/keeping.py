"""The arguments of a deferred step, sealed until it ends: whoever resumes it has nothing but its id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from stepwrit.digest import args_digest, parse_json
from stepwrit_broker.core.deferred import check_resumable
from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.step import Action, Step, StepRecord
from stepwrit_broker.flows.house import House


def sealed(house: House, step: Step, args: Mapping[str, object]) -> bytes | None:
    """A deferred step's arguments, readable for this step alone; None for any other step."""
    if not step.deferred:
        return None
    return house.sealer.seal(json.dumps(args, ensure_ascii=False).encode(), step.id)


async def opened(house: House, step: Step, action: Action) -> dict[str, object]:
    """The arguments again, compared with the digest that everything was decided on.

    Raises Unavailable(rule="store"), Refused where the step ended meanwhile: they are erased with its end.
    """
    kept = await house.store.sealed_args(step.id)
    if kept is None:
        check_resumable(_still(await house.store.step(step.id)))
    text = None if kept is None else house.sealer.open(kept, step.id)
    args = None if text is None else cast("dict[str, object]", parse_json(text))
    if args is None or args_digest(args) != action.args:
        raise Unavailable("unavailable", "the step's arguments are not what was kept", rule="store")
    return args


def _still(found: StepRecord | None) -> StepRecord:
    """A step that was there a moment ago."""
    if found is None:
        raise Refused("expired", "the step is over and gone")
    return found
