"""What a run leaves behind, as JSON lines: what each caller sent and saw, what the target did, which faults
there were, which checkpoints were seen, what the ledger and the store have at the end.

Times are seconds since the epoch by the clock of the machine that runs the harness; a broker may be made to
believe in another one. A line is `{"what": …, …}`; `Run.read` takes them in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Result = Literal["ok", "refused", "cut", "odd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, from when it was sent to what was seen of it.

    caller: who. via: which broker. op: the operation id; a repeat has the same. result: `ok`; `refused` in
    the one typed shape; `cut`: no answer, `said` is the transport's word; `odd`: anything else, `said` is its
    start.
    txn, step, grant, target: what it was about or what came of it. covered: everything else whose mark
    would have to stop it, as mark targets.
    """

    caller: str
    via: str
    verb: str
    op: str
    sent: float
    saw: float
    result: Result
    status: int = 0
    code: str = ""
    rule: str = ""
    ref: str = ""
    txn: str = ""
    step: str = ""
    grant: str = ""
    target: str = ""
    covered: tuple[str, ...] = ()
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The target did it: written and synced after its redeem had said yes. op: of that redeem."""

    at: float
    place: str
    grant: str
    op: str
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done to whom, from when to when. how: by what means. told: whether callers may see cuts."""

    kind: str
    target: str
    began: float
    ended: float
    how: str = ""
    told: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCheckpoint:
    """A checkpoint that a broker showed during the run. root: hex."""

    at: float
    via: str
    origin: str
    size: int
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the ledger as stored at the end. body: its text; leaf: the hash beside it, hex."""

    seq: int
    body: str
    leaf: str

    @property
    def facts(self) -> dict[str, Any]:
        """What it says."""
        said: dict[str, Any] = json.loads(self.body)
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalState:
    """What the store has at the end, after all clocks and sweeps: ids and states; mark targets and verbs."""

    grants: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the run was held to. limits: the text of limits.yaml. times: by tool, how many of a step's
    credentials may be redeemed.

    held_s: for how long cells of a rate limit that a broker took may still be spent by it (0: at once).
    is_epoch_fresh: whether rate counters begin anew with each epoch. slack_s: by how much the clocks of
    brokers may differ. grace_s: how long after a fault a caller may still see a cut.
    """

    limits: str
    times: Mapping[str, int] = field(default_factory=dict)
    held_s: float = 0.0
    is_epoch_fresh: bool = True
    slack_s: float = 0.25
    grace_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All of it."""

    exchanges: tuple[Exchange, ...] = ()
    effects: tuple[Effect, ...] = ()
    faults: tuple[Fault, ...] = ()
    checkpoints: tuple[SeenCheckpoint, ...] = ()
    entries: tuple[Entry, ...] = ()
    state: FinalState = field(default_factory=FinalState)
    terms: Terms

    @staticmethod
    def read(lines: Iterable[str]) -> Run:
        """Raises ValueError, KeyError or TypeError for what `write` did not write."""
        sorted_out: dict[str, list[Any]] = {name: [] for name in _SHAPES}
        for line in lines:
            said = json.loads(line)
            sorted_out[said.pop("what")].append(said)
        made = {name: [_SHAPES[name](**_tupled(said)) for said in all_] for name, all_ in sorted_out.items()}
        return Run(
            exchanges=tuple(sorted(made["exchange"], key=lambda e: (e.sent, e.caller, e.op))),
            effects=tuple(made["effect"]),
            faults=tuple(made["fault"]),
            checkpoints=tuple(made["checkpoint"]),
            entries=tuple(made["entry"]),
            state=made["state"][0],
            terms=made["terms"][0],
        )

    def lines(self) -> list[str]:
        """The run as it is read."""
        parts: list[Any] = [*self.exchanges, *self.effects, *self.faults, *self.checkpoints, *self.entries]
        return [write(part) for part in (*parts, self.state, self.terms)]


_SHAPES: dict[str, Any] = {
    "exchange": Exchange,
    "effect": Effect,
    "fault": Fault,
    "checkpoint": SeenCheckpoint,
    "entry": Entry,
    "state": FinalState,
    "terms": Terms,
}
_NAMES = {shape: name for name, shape in _SHAPES.items()}


def write(part: Any) -> str:
    """One line, without its end. Members that have their default are left out."""
    said = {each.name: getattr(part, each.name) for each in fields(part)}
    kept = {name: value for name, value in said.items() if value != _DEFAULTS[type(part)].get(name, _NONE)}
    return json.dumps({"what": _NAMES[type(part)], **kept})


_NONE = object()
_DEFAULTS = {shape: {each.name: each.default for each in fields(shape)} for shape in _NAMES}


def _tupled(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "covered": tuple(said["covered"])} if "covered" in said else said
