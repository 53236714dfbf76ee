"""What is needed as text for a shell, or as one JSON object that `spire-server entry create -data` takes.

In both, only what is finished can run: the rest is a comment, or a member that SPIRE does not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stepwrit.spiffe_id import SCHEME
from stepwrit_broker.spire.compare import Difference, Lacking
from stepwrit_broker.spire.needed import Elsewhere, Need, Needed, clashes


def as_shell(wanted: Needed, lacking: Lacking) -> str:
    """Commands and comments, to be read and then piped into a shell where the SPIRE server runs."""
    parts = (*_bundles(wanted), *map(_create, lacking.missing), *map(_update, lacking.different))
    if not lacking.missing and not lacking.different:
        parts = (_comment("Nothing is missing, nothing differs."),)
    return "\n\n".join((*parts, *_others(wanted.elsewhere))) + "\n"


def _comment(*lines: str) -> str:
    """Lines that no shell obeys, whatever is in them."""
    return "\n".join(f"# {''.join(each if each.isprintable() else '?' for each in line)}" for line in lines)


def _bundles(wanted: Needed) -> Iterator[str]:
    if wanted.partners:
        first = "The server must know these bundles first, or it refuses the entry of the broker:"
        yield _comment(first, *(f"  spire-server bundle list -id {SCHEME}{each}" for each in wanted.partners))


def _create(need: Need) -> str:
    title = _comment(f"{need.name}: {need.what}")
    if not need.lacks:
        return f"{title}\n{need.entry.command()}"
    shown = replace(
        need.entry,
        parent_id=need.entry.parent_id or "<PARENT_ID>",
        selectors=need.entry.selectors or ("<TYPE:VALUE>",),
    )
    return f"{title}\n" + _comment(f"UNFINISHED, give {' '.join(need.lacks)}", *shown.command().splitlines())


def _update(found: Difference) -> str:
    title = f"{found.need.name}: {found.need.what}, entry {found.update.entry_id}"
    return f"{_comment(title, *found.faults)}\n{found.update.command()}"


def _others(elsewhere: Sequence[Elsewhere]) -> Iterator[str]:
    if elsewhere:
        lines = (f"  {each.name} {each.spiffe_id}: {each.todo}" for each in elsewhere)
        yield _comment("Not to be registered by a command here:", *lines)


def as_json(wanted: Needed, lacking: Lacking) -> dict[str, object]:
    """`entries` to create. Beside it: `updates` (for `entry update -data`), `unfinished`, `elsewhere`,
    `bundles` that the server must know first, `notes`.
    """
    return {
        "entries": [each.entry.as_data() for each in lacking.missing if not each.lacks],
        "updates": [each.update.as_data() for each in lacking.different],
        "faults": {each.update.entry_id: list(each.faults) for each in lacking.different},
        "unfinished": [
            {"name": each.name, "spiffe_id": each.entry.spiffe_id, "give": list(each.lacks)}
            for each in lacking.missing
            if each.lacks
        ],
        "elsewhere": [
            {"name": each.name, "spiffe_id": each.spiffe_id, "todo": each.todo} for each in wanted.elsewhere
        ],
        "bundles": list(wanted.partners),
        "notes": list(notes(wanted, lacking)),
    }


def notes(wanted: Needed, lacking: Lacking) -> Iterator[str]:
    """What would not work as meant."""
    yield from lacking.unasked
    for one, other in clashes(wanted.needs):
        yield (
            f"whatever {other.name} selects has the ID of {one.name} too: its selectors "
            f"({', '.join(one.entry.selectors)}) hold there; give each workload selectors of its own"
        )
