"""What a SPIRE server lacks of what is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stepwrit_broker.spire.needed import JWT_TTL_S, Need, Needed
from stepwrit_broker.spire.parents import unasked
from stepwrit_broker.spire.registration import RegistrationEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An entry that is there and not as it must be. `update`: all of it, mended."""

    need: Need
    faults: tuple[str, ...]
    update: RegistrationEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """What is missing, and what differs; both empty: nothing to do. unasked: why no agent gives some out."""

    missing: tuple[Need, ...]
    different: tuple[Difference, ...]
    unasked: tuple[str, ...] = ()


def lacking(wanted: Needed, have: Sequence[RegistrationEntry], now: float) -> Lacking:
    """Compare at `now` (seconds since the epoch). More than is needed is never a fault, but for powers."""
    there = [each for each in have if not 0 < each.expires_at <= now]
    missing: list[Need] = []
    different: list[Difference] = []
    for need in wanted.needs:
        of_id = [each for each in there if each.spiffe_id == need.entry.spiffe_id]
        fitting = [each for each in of_id if not list(_elsewhere(need, each))]
        strays = not fitting and len(of_id) == 1
        if not fitting and not strays:
            missing.append(need)
        different += [found for each in of_id for found in _differences(need, each, strays=strays)]
    ours = frozenset(need.entry.spiffe_id for need in wanted.needs)
    return Lacking(missing=tuple(missing), different=tuple(different), unasked=tuple(unasked(ours, there)))


def _differences(need: Need, found: RegistrationEntry, *, strays: bool) -> Iterator[Difference]:
    """strays: it is the only one, and not with the parent and selectors that were told."""
    faults = (*(_elsewhere(need, found) if strays else ()), *_faults(need, found))
    if faults:
        yield Difference(need=need, faults=faults, update=_mended(need, found, moves=strays))


def _elsewhere(need: Need, found: RegistrationEntry) -> Iterator[str]:
    wanted = need.entry
    if wanted.parent_id and wanted.parent_id != found.parent_id:
        yield f"its parent is {found.parent_id}"
    if wanted.selectors and set(wanted.selectors) != set(found.selectors):
        yield f"its selectors are {', '.join(found.selectors)}"


def _faults(need: Need, found: RegistrationEntry) -> Iterator[str]:
    wanted = need.entry
    if found.x509_ttl_s > wanted.x509_ttl_s:
        yield f"its X.509-SVIDs live {found.x509_ttl_s} s, at most {wanted.x509_ttl_s} are wanted"
    if need.takes_jwts and found.jwt_ttl_s > wanted.jwt_ttl_s:
        refused = ": the broker refuses them" if found.jwt_ttl_s > JWT_TTL_S else ""
        yield f"its JWT-SVIDs live {found.jwt_ttl_s} s, at most {wanted.jwt_ttl_s} are wanted{refused}"
    if wanted.jti and not found.jti:
        yield "its JWT-SVIDs have no jti"
    if wanted.hint and found.hint != wanted.hint:
        yield f"its hint is {found.hint!r}, spiffe_hint in broker.toml is {wanted.hint!r}"
    unknown = sorted(set(wanted.federates_with) - set(found.federates_with))
    if unknown:
        yield f"it does not federate with {', '.join(unknown)}"
    if found.admin or found.downstream:
        yield "it has powers over the SPIRE server that nothing here needs (admin, downstream)"


def _mended(need: Need, found: RegistrationEntry, *, moves: bool) -> RegistrationEntry:
    """What nobody faulted stays as it was found."""
    wanted = need.entry
    x509_ttl_s, jwt_ttl_s = _at_most(found.x509_ttl_s, wanted.x509_ttl_s), found.jwt_ttl_s
    return replace(
        found,
        parent_id=(moves and wanted.parent_id) or found.parent_id,
        selectors=(moves and wanted.selectors) or found.selectors,
        x509_ttl_s=x509_ttl_s,
        jwt_ttl_s=_at_most(jwt_ttl_s, wanted.jwt_ttl_s) if need.takes_jwts else jwt_ttl_s,
        jti=found.jti or wanted.jti,
        hint=wanted.hint or found.hint,
        federates_with=tuple(sorted({*found.federates_with, *wanted.federates_with})),
        admin=False,
        downstream=False,
    )


def _at_most(found: int, wanted: int) -> int:
    return min(found or wanted, wanted)
