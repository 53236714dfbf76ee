"""Who is calling, decided once per request: attest (stage 1), the registry's entry, and the key proof."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from stepwrit.digest import DigestError
from stepwrit.dpop import DpopProof, verify_proof
from stepwrit.jws import TokenRefused
from stepwrit.wire import LEEWAY_S
from stepwrit_broker.core import marks
from stepwrit_broker.core.admission import admit
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem, Unproven
from stepwrit_broker.core.workload import TrustDomain, Workload
from stepwrit_broker.edge.http import Request, Scope
from stepwrit_broker.edge.nonces import Nonces
from stepwrit_broker.edge.proving import Proving
from stepwrit_broker.flows.house import Refusals, proof_uses
from stepwrit_broker.ports import Clock, KeyPin, Settings, Store

EVERYTHING = "everything:all"
PINNED_MAX = 8_192


class Callers:
    """Turns a request on one listener into a Caller.

    proving: how callers prove who they are there. bases: the URLs under which it is reached. nonces: given
    where callers have none but bearers to show; then every request needs a key proof with a nonce of ours.
    """

    def __init__(
        self,
        *,
        proving: Proving,
        settings: Settings,
        store: Store,
        clock: Clock,
        home: str,
        bases: Callable[[], tuple[str, ...]],
        seen: Callable[[Workload, float], None],
        nonces: Nonces | None = None,
    ) -> None:
        self._proving, self._settings, self._store, self._clock = proving, settings, store, clock
        self._home, self._bases, self._seen, self._nonces = TrustDomain(home), bases, seen, nonces
        self._pinned: OrderedDict[str, str] = OrderedDict()

    async def of(
        self, request: Request, *, proof: bool, stopped_too: bool = False, unwritten: bool = False
    ) -> Caller:
        """The caller; with `proof`, also the key that it proves to hold in this very request.

        stopped_too: also one whom a mark stops, since it is about to end something; never on the word of a
        proxy that a mark stops. unwritten: no write of the verb will use up the key proof.

        Once attested and registered it stands in the scope as `stepwrit.caller`: refusals are recorded by it.
        Raises: Malformed, Unproven(`unattested` | `invalid_proof` | `use_dpop_nonce`), Refused(`replay`,
        `frozen`, …), Unavailable.
        """
        now = self._clock.now()
        workload = self._proving.workload(request, now)
        entry = admit(self._settings.now_in_force().registry, self._home, workload)
        self._seen(workload, now)
        caller = request.scope["stepwrit.caller"] = Caller(workload=workload, entry=entry)
        marks.test(self._store.marks(), marks.subjects_of_proxy(caller) if stopped_too else _stops(caller))
        if workload.attested_by == "jwt":
            caller = self._proved(request, caller, now)
            if not stopped_too:
                marks.test(self._store.marks(), (f"key:{caller.jkt}",))
            return await self._pinned_to_key(caller, now, spend=unwritten or not proof)
        return self._proved(request, caller, now) if proof else caller

    async def _pinned_to_key(self, caller: Caller, now: float, *, spend: bool) -> Caller:
        """A bearer serves one key: the first that was shown with it, whoever shows it.

        spend: no write of the verb will use up the key's proof, so it is used up here.
        """
        svid, jkt = caller.workload.serial, caller.jkt or ""
        if spend or self._pinned.get(svid) != jkt:
            proofs = proof_uses(caller) if spend else ()
            until = caller.workload.expires_at
            await self._store.pin(KeyPin(svid=svid, jkt=jkt, until=until, proofs=proofs, now=now))
            self._pinned[svid] = jkt
            if len(self._pinned) > PINNED_MAX:
                self._pinned.popitem(last=False)
        return caller

    def _proved(self, request: Request, caller: Caller, now: float) -> Caller:
        unverified = _dpop(request)
        shown = self._shown(request, unverified, now)
        if self._nonces is not None and not self._nonces.is_ours(shown.nonce, now):
            raise Unproven("use_dpop_nonce", "the DPoP proof needs the nonce of this answer's DPoP-Nonce")
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


def _dpop(request: Request) -> str:
    """The one DPoP header (RFC 9449 section 4.3)."""
    try:
        unverified = request.header(b"dpop")
    except Malformed as twice:
        raise Unproven("invalid_proof", "there is more than one DPoP header") from twice
    if unverified is None:
        raise Unproven("invalid_proof", "a DPoP header is required here")
    return unverified


def _stops(caller: Caller) -> tuple[str, ...]:
    """What stops the caller. While everything is frozen operators still brake, and thaw."""
    stops = marks.subjects_of_caller(caller)
    return stops if caller.entry.role != "operator" else tuple(each for each in stops if each != EVERYTHING)


async def record(refusals: Refusals, verb: str, problem: Problem, scope: Scope) -> None:
    """What no flow has recorded (a bad proof, a body of no shape): every attested refusal is an entry."""
    caller: Caller | None = scope.get("stepwrit.caller")
    if problem.ref is None and caller is not None:
        await refusals.note(problem, caller, verb, {})
