"""[[witness]]: who cosigns this broker's log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from stepwrit_broker.config_notices import LOOPBACK
from stepwrit_broker.config_reader import Means

NONE: Final = Path()
MOST: Final = 16
WEEK_S: Final = 604_800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSource:
    """A witness (C2SP tlog-witness) that is asked to cosign each checkpoint of the log: somebody else, on
    another machine. See [ledger] for what its silence means.
    """

    url: Annotated[
        str,
        Means(
            text="Its submission prefix, without `/add-checkpoint`: https, or http to a loopback host.",
            example="https://witness.example/w1",
        ),
    ]
    vkey: Annotated[
        str,
        Means(
            text="Its public key (`stepwrit witness key`), got in another way than from that URL.",
            example="witness.example/w1+4fa1a9b2+BE0Z…",
        ),
    ]
    ca_file: Annotated[Path, Means(text="A private CA, PEM. Empty: the CAs of this system.")] = NONE


def witness_problems(
    witnesses: tuple[WitnessSource, ...], quorum: int, refuse_after_s: float
) -> Iterator[str]:
    """Every problem of meaning, one a line. Keys are read when the broker starts."""
    for at, each in enumerate(witnesses):
        parts = urlsplit(each.url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not is_safe or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            yield f"witness[{at}].url: must be an https URL (http only for loopback) without query"
    if len({each.vkey for each in witnesses}) != len(witnesses):
        yield "witness: names a key twice"
    if len(witnesses) > MOST:
        yield f"witness: at most {MOST}"
    if quorum > len(witnesses):
        yield f"ledger.witness_quorum: is {quorum}, with {len(witnesses)} [[witness]]"
    if not refuse_after_s <= WEEK_S:
        yield "ledger.witness_refuse_after_s: at most a week; a log that nobody witnesses is in doubt"
