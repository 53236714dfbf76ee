"""The parts run on real engines, on works as real cycles make them. No timings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.bench.fleet_parts import PARTS
from tests.bench.fleet_works import Copies, Template
from tests.bench.profiled import Looks, part_of, shares
from tests.bench.test_bench_smoke import started

from stepwrit_broker.core.ids import is_id
from stepwrit_broker.ports_ledger import Said
from stepwrit_broker.store.fleet.codec import decode, encode
from stepwrit_broker.store.fleet.postgres.folding import Fold
from stepwrit_broker.store.fleet.seams import Change, Numbered, Row, Work

TXN, STEP, GRANT = (f"{kind}_102{'A' * 26}" for kind in ("txn", "stp", "grt"))
OTHER = f"stp_102{'B' * 26}"


@pytest.mark.live
@pytest.mark.slow
async def test_each_part_says_what_it_measured() -> None:
    code, out, said = await started("tests.bench.fleet_parts", "--count", "40")
    assert code == 0, said
    for part in PARTS:
        assert f"\n{part}\n" in out
    for line in ("commit of redeem", "a place", "its redeem and close", "batches of 64", "as fast as goes"):
        assert f"\n{line}" in out, line


def work(version: int, *fields: str, uses: tuple[str, ...] = ()) -> Work:
    rows = tuple(Row(field, at, b"x" * 10) for at, field in enumerate(fields))
    said = Said(b"body", 1.0, "step.opened", TXN, "REF", "t")
    return Work(at=1.0, changes=(Change(txn=TXN, version=version, put=rows),), entries=(said,), uses=uses)


def copies() -> Copies:
    opened = work(1, f"steps:{OTHER}", f"steps:{STEP}", "ops:AA")
    spent = work(2, f"grants:{GRANT}", "ops:BB", uses=(GRANT,))
    return Copies(Template(work(0, f"txns:{TXN}", f"steps:{STEP}"), (opened, spent)))


def test_copies_are_new_names_that_follow_one_another() -> None:
    lane = copies().lane()
    works = [lane.root(), *(lane.work(step, verb) for step in (lane.step(), lane.step()) for verb in (0, 1))]
    fold = Fold()
    for at, each in enumerate(works, 1):
        fold.add(Numbered(lane.shard, at, b""), decode(encode(each)))
    assert fold.versions == {lane.txn: (0, 5)}
    assert is_id("txn", lane.txn)
    assert len({grant for grant, _, _ in fold.uses}) == 2
    named = [field for txn, field in fold.rows if not field.startswith("ops:")]
    assert len(named) == 2 + 2 + 2  # the intent's; a step and a grant of each
    assert not {TXN, STEP, OTHER, GRANT} & {name.partition(":")[2] for name in named}


def test_a_look_counts_for_the_innermost_part_on_the_stack() -> None:
    edge, plan = "/x/stepwrit_broker/edge/app.py", "/x/stepwrit_broker/store/fleet/scratch.py"
    assert part_of(["/lib/json/encoder.py", plan, edge]).startswith("the fleet's copy")
    assert part_of(["/lib/asyncio/events.py", edge]) == "HTTP and TLS"
    assert part_of(["/lib/asyncio/events.py"]) == part_of([]) == "asyncio and the rest"


def test_shares_of_looks_make_one(tmp_path: Path) -> None:
    looks = Looks()
    looks.look(sys._getframe())  # no request has come yet
    assert not looks.parts
    scope: dict[str, Any] = {}
    exec(compile("def ask(look, of): look(of())", "/x/uvicorn/protocols/impl.py", "exec"), scope)
    for _ in range(3):
        scope["ask"](looks.look, sys._getframe)
        scope["ask"](lambda _: looks.look(sys._getframe(1)), sys._getframe)
    looks.end(tmp_path / "seen")
    assert sum(share for _, share in shares(tmp_path / "seen")) == pytest.approx(1.0)
    assert shares(tmp_path / "seen")[0][0] == "HTTP and TLS"
