"""`python -m tests.bench.profiled OUT PROGRAM ARGUMENTS…`: where a Python program's CPU time goes, by part.

It looks once in a millisecond of CPU (ITIMER_PROF): waiting does not count, looking costs next to nothing. A
look counts for the innermost part that it finds on the stack; before the first request none counts.
`python -m tests.bench.profiled --read OUT` prints the shares.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Final

EVERY_S: Final = 0.001
FIRST_REQUEST: Final = "uvicorn/protocols"
PARTS: Final = (
    ("PostgreSQL's client", ("/asyncpg/",)),
    ("Redis' client", ("/redis/asyncio/", "/redis/_parsers/", "fleet/redis/")),
    ("carrying the streams", ("fleet/sequencer.py", "fleet/postgres/", "ledger/postgres/")),
    ("the fleet's copy, plan and claims", ("store/fleet/",)),
    ("the embedded store's verbs (SQLite)", ("stepwrit_broker/store/",)),
    ("policy", ("stepwrit_broker/policy/", "cedarpy")),
    (
        "signatures and tokens",
        ("stepwrit/jws", "stepwrit/dpop", "stepwrit_broker/keys/", "/jwt/", "cryptography"),
    ),
    ("identity of callers", ("stepwrit_broker/attest/", "x509svid")),
    ("HTTP and TLS", ("uvicorn", "stepwrit_broker/edge/", "/ssl.py")),
    ("flows, core, shapes", ("stepwrit_broker/", "/stepwrit/")),
    ("asyncio and the rest", ("",)),
)


def part_of(files: Iterable[str]) -> str:
    """The part that a stack is of. files: of its frames, the innermost first."""
    own = [
        (file, part) for file in files for part, marks in PARTS[:-1] if any(mark in file for mark in marks)
    ]
    return own[0][1] if own else PARTS[-1][0]


class Looks:
    """Counts where the program is."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self._has_begun = False

    def begin(self) -> None:
        """From now on."""
        signal.signal(signal.SIGPROF, lambda _, frame: self.look(frame))
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def look(self, frame: FrameType | None) -> None:
        """Once."""
        stack = list(_stack(frame))
        files = [file for file, _ in stack]
        self._has_begun = self._has_begun or any(FIRST_REQUEST in file for file in files)
        if self._has_begun and stack:
            self.parts[part_of(files)] += 1
            self.places[" ".join(stack[0])] += 1

    def end(self, out: Path) -> None:
        """Write what was seen."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        seen = {"parts": self.parts.most_common(), "places": self.places.most_common(60)}
        out.write_text(json.dumps(seen), encoding="utf-8")


def _stack(frame: FrameType | None) -> Iterable[tuple[str, str]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back


def shares(out: Path) -> list[tuple[str, float]]:
    """By part, the dearest first; they make 1."""
    parts: list[tuple[str, int]] = json.loads(out.read_text(encoding="utf-8"))["parts"]
    looks = sum(count for _, count in parts)
    return [(part, count / looks) for part, count in parts]


def main(given: list[str]) -> None:
    if given[0] == "--read":
        for part, share in shares(Path(given[1])):
            print(f"{part:40} {share:6.1%}")
        return
    out, *sys.argv = given
    looks = Looks()
    looks.begin()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        looks.end(Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
