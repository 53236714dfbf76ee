"""Who is calling, decided once per request: attest (stage 1), the registry's entry, and the key proof."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from stepwrit.digest import DigestError
from stepwrit.dpop import DpopProof, verify_proof
from stepwrit.jws import TokenRefused
from stepwrit.wire import LEEWAY_S
from stepwrit.x509svid import TlsPeer
from stepwrit_broker.core import marks
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem, Unproven
from stepwrit_broker.core.workload import Workload
from stepwrit_broker.edge.http import Request, Scope
from stepwrit_broker.flows.house import Refusals
from stepwrit_broker.ports import Clock, Settings, Store

EVERYTHING = "everything:all"


class Attestor(Protocol):
    """Stage 1 for the certificate of a connection."""

    def attest(self, tls: TlsPeer | None, now: float) -> Workload:
        """The attested workload. Raises Unproven(`unattested`), Unavailable."""
        ...


class Callers:
    """Turns a request on the mtls listener into a Caller. bases: the URLs under which this listener is
    reached.
    """

    def __init__(
        self,
        *,
        attestor: Attestor,
        settings: Settings,
        store: Store,
        clock: Clock,
        bases: Callable[[], tuple[str, ...]],
        seen: Callable[[Workload, float], None],
    ) -> None:
        self._attestor, self._settings, self._store, self._clock = attestor, settings, store, clock
        self._bases, self._seen = bases, seen

    def of(self, request: Request, *, proof: bool, stopped_too: bool = False) -> Caller:
        """The caller; with `proof`, also the key that it proves to hold in this very request.

        stopped_too: also one whom a mark stops, since it is about to end something.

        Once attested and registered it stands in the scope as `stepwrit.caller`: refusals are recorded by it.
        Raises: Unproven(`unattested` | `invalid_proof`), Refused(`not_registered`, `frozen`, …), Unavailable.
        """
        now = self._clock.now()
        peer = cast("TlsPeer | None", request.scope.get("extensions", {}).get("stepwrit.tls"))
        workload = self._attestor.attest(peer, now)
        self._seen(workload, now)
        entry = self._settings.now_in_force().registry.entry_for(workload.id)
        if entry is None:
            raise Unproven(
                "unattested",
                "this SPIFFE ID is not registered",
                rule="registry",
                who_can_change_it="the operator (registry.yaml)",
            )
        caller = request.scope["stepwrit.caller"] = Caller(workload=workload, entry=entry)
        if not stopped_too:
            marks.test(self._store.marks(), _stops(caller))
        return self._proved(request, caller, now) if proof else caller

    def _proved(self, request: Request, caller: Caller, now: float) -> Caller:
        unverified = request.header(b"dpop")
        if unverified is None:
            raise Unproven("invalid_proof", "a DPoP header is required here")
        shown = self._shown(request, unverified, now)
        if len(shown.jti) > 256:
            raise Malformed("invalid_request", "jti: at most 256 characters")
        return Caller(
            workload=caller.workload,
            entry=caller.entry,
            jkt=shown.jkt,
            proof_jti=shown.jti,
            proof_until=shown.usable_until,
        )

    def _shown(self, request: Request, unverified: str, now: float) -> DpopProof:
        """The proof, made for one of the URLs under which this listener is reached."""
        *others, last = self._bases()
        for base in others:
            with suppress(TokenRefused, DigestError):
                return verify_proof(
                    unverified, htm=request.method, htu=base + request.path, now=now, leeway=LEEWAY_S
                )
        try:
            return verify_proof(
                unverified, htm=request.method, htu=last + request.path, now=now, leeway=LEEWAY_S
            )
        except TokenRefused as refused:
            raise Unproven("invalid_proof", "the DPoP proof does not hold", rule=refused.reason) from refused
        except DigestError as bad:  # of the path: no proof can name such a URL
            raise Unproven("invalid_proof", "the DPoP proof does not hold", rule="request") from bad


def _stops(caller: Caller) -> tuple[str, ...]:
    """What stops the caller. While everything is frozen operators still brake, and thaw."""
    stops = marks.subjects_of_caller(caller)
    return stops if caller.entry.role != "operator" else tuple(each for each in stops if each != EVERYTHING)


async def record(refusals: Refusals, verb: str, problem: Problem, scope: Scope) -> None:
    """What no flow has recorded (a bad proof, a body of no shape): every attested refusal is an entry."""
    caller: Caller | None = scope.get("stepwrit.caller")
    if problem.ref is None and caller is not None:
        await refusals.note(problem, caller, verb, {})
