"""The simulated sequencer carries every work once, and is where arithmetic says it is."""

from __future__ import annotations

import pytest
from tests.bench.simulate import HEAD, WORKS, Model, rows, run

MODEL = Model(fixed=0.004, each=0.00015)


def test_every_work_is_carried_and_a_seed_says_all() -> None:
    seen = run(MODEL, 200, 1000)
    assert sum(seen.batches) == 1000 * WORKS
    assert (len(seen.waits), len(seen.cycles)) == (2500, 500)
    assert run(MODEL, 200, 1000).waits == seen.waits
    assert run(MODEL, 200, 1000, seed=2).waits != seen.waits


def test_nobody_waits_less_than_a_commit_lasts() -> None:
    seen = run(MODEL, 200, 1000)
    assert min(seen.waits) >= MODEL.fixed + MODEL.each - 1e-9
    assert min(seen.cycles) >= WORKS * (MODEL.fixed + MODEL.each) - 1e-9


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_quiet_fleet_waits_for_one_commit_and_a_half(share: float) -> None:
    """A work meets a commit that is half done on average, and then its own."""
    seen = run(MODEL, MODEL.ceiling * share, 4000)
    size = sum(seen.batches) / len(seen.batches)
    commit = MODEL.fixed + MODEL.each * size
    mean = sum(seen.waits) / len(seen.waits)
    assert commit < mean < 2 * commit


def test_more_load_makes_larger_commits_and_longer_waits() -> None:
    few, many = (run(MODEL, MODEL.ceiling * share, 4000) for share in (0.2, 0.8))
    assert sum(many.waits) > sum(few.waits)
    assert len(many.batches) < len(few.batches)


def test_a_bounded_commit_holds_no_more() -> None:
    assert max(run(MODEL, 1000, 4000).batches) > 8
    assert max(run(Model(fixed=0.004, each=0.00015, most=8), 1000, 4000).batches) == 8


def test_a_row_for_each_share() -> None:
    made = rows(MODEL, (0.1, 0.5), 200)
    assert [row[0] for row in made] == ["10%", "50%"]
    assert {len(row) for row in made} == {len(HEAD)}
