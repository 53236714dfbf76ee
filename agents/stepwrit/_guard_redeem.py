"""The guard's two words to the broker: redeem, and report a no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

import anyio

from stepwrit._guard_answer import Denied, unavailable
from stepwrit.errors import RefusedError, StepwritError, UnavailableError
from stepwrit.jws import VerifyKey
from stepwrit.tokens import CredentialClaims
from stepwrit.wire import Redeemed, RedeemRequest

REPORT_S: Final = 2.0


class Redeemer(Protocol):
    """What the guard needs of a broker; `stepwrit.client.Broker` is one."""

    @property
    def issuer(self) -> str:
        """The `iss` of its tokens. Raises StepwritError until `keys` was answered once."""
        ...

    @property
    def trust_domain(self) -> str:
        """The broker's own trust domain. Raises StepwritError until `keys` was answered once."""
        ...

    async def keys(self) -> Mapping[str, VerifyKey]:
        """Its published keys by `kid`, asked for now. Raises StepwritError in doubt."""
        ...

    async def redeem(self, request: RedeemRequest) -> Redeemed:
        """Redeem under a fresh random operation id, repeated under the same id after a lost reply.

        Raises:
            RefusedError: the broker's no. UnavailableError or another StepwritError: no answer that decides.
        """
        ...


async def redeem(
    broker: Redeemer, request: RedeemRequest, claims: CredentialClaims, budget_s: float
) -> Redeemed:
    """The go-ahead for exactly this credential, within `budget_s` seconds.

    Raises Denied: the broker's no, or `unavailable` when nobody answered in time.
    """
    try:
        with anyio.fail_after(budget_s):
            redeemed = await broker.redeem(request)
    except UnavailableError as doubt:
        raise unavailable("the broker cannot be reached", signed=True) from doubt
    except RefusedError as no:
        raise Denied(no.refusal, signed=True, reported=True) from None
    except (StepwritError, OSError) as doubt:  # TimeoutError is an OSError
        raise unavailable("the broker did not answer", signed=True) from doubt
    if (redeemed.grant, redeemed.step, redeemed.txn) != (claims.grant, claims.step, claims.txn):
        raise unavailable("the broker answered for another credential", signed=True)
    return redeemed


async def report(broker: Redeemer, no: Denied, request: RedeemRequest) -> Denied:
    """The same no with the `ref` of its record, when the broker gives one in time.

    Nothing is spent: a request with a finding never redeems.
    """
    try:
        with anyio.fail_after(REPORT_S):
            await broker.redeem(replace(request, finding=no.refusal.code))
    except RefusedError as told:
        return no if told.ref is None else no.with_ref(told.ref)
    except (StepwritError, OSError):
        return no
    return no
