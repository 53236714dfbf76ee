"""`python -m tests.faults [--json] [--seed N] [--seconds N]`: break things, then prove that nothing was lost.

See docs/how-to/run-the-fault-harness.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.faults.embedded import embedded
from tests.faults.fleet import thin_fleet, whole_fleet
from tests.faults.harness import Asked, Outcome, Topology, run
from tests.faults.process import MissingError, build_shim
from tests.faults.table import table

TOPOLOGIES: dict[str, Callable[[Path, Path], AbstractAsyncContextManager[Topology]]] = {
    "fleet": whole_fleet,
    "stores": thin_fleet,
    "embedded": embedded,
}


def options(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object on stdout")
    add("--topology", choices=sorted(TOPOLOGIES), default="fleet", help="what to run (default fleet)")
    add("--seed", type=int, default=None, help="of the schedule (default: a fresh one, printed)")
    add("--seconds", type=float, default=60.0, help="how long faults go on (default 60)")
    add("--callers", type=int, default=64, help="concurrent callers (default 64)")
    add(
        "--only", action="append", default=[], metavar="KIND", help="only faults of this kind; again for more"
    )
    add("--none", action="store_true", help="no faults: the control")
    add("--table", type=Path, default=None, metavar="FILE", help="write the table of faults there")
    add("--keep", type=Path, default=None, metavar="FOLDER", help="keep logs and the run's record there")
    return parser.parse_args(given)


async def play(asked: argparse.Namespace, seed: int) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="sw-"))  # short: Unix sockets live below it
    try:
        async with TOPOLOGIES[asked.topology](folder, build_shim(folder)) as topology:
            unwanted = topology.kinds.keys() if asked.none else topology.kinds.keys() - set(asked.only)
            kinds = {
                k: how
                for k, how in topology.kinds.items()
                if k not in unwanted or not (asked.only or asked.none)
            }
            wanted = Asked(seed=seed, seconds=asked.seconds, callers=asked.callers, kinds=kinds, say=_say)
            return await run(folder, topology, wanted)
    finally:
        if asked.keep is not None:
            skipped = shutil.ignore_patterns("*.sock", "w")
            shutil.copytree(folder, asked.keep, dirs_exist_ok=True, ignore=skipped)
        shutil.rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> int:
    asked = options(sys.argv[1:])
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    _say(f"seed {seed}")
    try:
        outcome = asyncio.run(play(asked, seed))
    except MissingError as missing:
        _say(f"error: {missing}")
        return 2
    for finding in outcome.findings[:50]:
        _say(f"FOUND {finding.kind}: {finding.what}")
    numbers = outcome.numbers(seed)
    if asked.table is not None:
        asked.table.write_text(table(outcome, asked.topology, seed, asked.callers))
    if asked.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name:20} {value}")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
