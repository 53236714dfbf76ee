"""The in-memory broker: one credential per request of a plan, and its one use."""

from __future__ import annotations

from stepwrit._testing_books import GrantRow, No, StepRow
from stepwrit._testing_callers import Caller
from stepwrit._testing_registry import line_for
from stepwrit._testing_running import Running
from stepwrit.digest import DigestError, normalise_url, request_digest_of
from stepwrit.dpop import token_hash, verify_proof
from stepwrit.jws import TokenRefused
from stepwrit.tokens import CredentialClaims
from stepwrit.verify import verify_credential
from stepwrit.wire import CREDENTIAL_S, LEEWAY_S, TYP_CREDENTIAL, Redeemed, RedeemRequest, RequestDetails


class Using(Running):
    """Credential and redeem."""

    def credential(
        self, caller: Caller, step: str, resource: str, details: RequestDetails
    ) -> tuple[GrantRow, str]:
        """A credential for one request of an accepted step's plan."""
        row = self._mine(step, caller)
        self._live(row, "accepted")
        try:
            url = normalise_url(details.url)
            request = request_digest_of(details.method, url, details.body)
        except DigestError as bad:
            raise No("invalid_authorization_details", str(bad)) from None
        line = self._place(row, details.method, url, resource)
        self.registry.test(row.tool, "credential")
        grant = GrantRow(
            id=self._id("grt"),
            step=row,
            audience=resource,
            jkt=caller.key(),
            request=request,
            line=line,
            details=details,
            expires_at=int(self.clock.now()) + CREDENTIAL_S,
            ref=self.ref(),
        )
        self._grants[grant.id] = grant
        self.note("issued", caller, row, grant=grant.id)
        return grant, self.keys.credential.sign(TYP_CREDENTIAL, self._claims(grant).claims())

    def _place(self, row: StepRow, method: str, url: str, resource: str) -> int:
        """The line of the plan that has room for this request. Raises No."""
        plan = (row.tool.plan if row.tool else None) or ()
        line = line_for(plan, method, url, resource)
        spent = [each for each in self._grants.values() if each.step is row and each.line == line]
        if sum(self._counts(each) for each in spent) >= plan[line].times:
            raise No("plan", "this request was made as often as the plan allows")
        return line

    def _counts(self, grant: GrantRow) -> bool:
        """Whether it fills a place in the plan: used, or still usable."""
        return grant.state == "redeemed" or (grant.state == "issued" and self.clock.now() < grant.expires_at)

    def _claims(self, grant: GrantRow) -> CredentialClaims:
        row = grant.step
        assert row.tool is not None, "a root has no credential"  # noqa: S101  our own bookkeeping
        assert row.args is not None, "an action has arguments"  # noqa: S101
        actors = (row.performer, *(hop.initiator for hop in reversed(row.chain)))
        return CredentialClaims(
            issuer=self.issuer,
            audience=grant.audience,
            subject=row.txn.requester or row.initiator,
            performer=row.performer,
            chain=actors,
            jkt=grant.jkt,
            txn=row.txn.id,
            step=row.id,
            grant=grant.id,
            origin=row.origin,
            server=row.tool.name.partition("/")[0],
            tool=row.tool.name,
            impact=row.tool.impact,
            args=row.args,
            method=grant.details.method,
            url=normalise_url(grant.details.url),
            request=grant.request,
            iat=int(grant.expires_at) - CREDENTIAL_S,
            exp=int(grant.expires_at),
        )

    def redeem(self, caller: Caller, request: RedeemRequest) -> Redeemed:
        """The go-ahead, once. Nothing is spent by a no."""
        grant = self._presented(request)
        if request.finding is not None:
            raise No(request.finding, "the guard refused it")
        if caller.spiffe_id not in self.registry.redeemers.get(grant.audience, ()):
            raise No("wrong_workload", "this workload does not redeem for that audience")
        self._bound(grant, request)
        self._spend(grant)
        row = grant.step
        self.note("redeemed", caller, row, grant=grant.id)
        return Redeemed(
            grant=grant.id,
            step=row.id,
            txn=row.txn.id,
            ref=grant.ref,
            tool=row.tool.name if row.tool else "",
            origin=row.origin,
            requester=row.txn.requester,
            performer=row.performer,
            chain=row.chain,
        )

    def _presented(self, request: RedeemRequest) -> GrantRow:
        """The grant of a credential of ours, also one whose life is over: its state says so. Raises No."""
        keys = {self.keys.credential.kid: self.keys.credential.verify_key}
        for grant in self._grants.values():
            try:
                claims = verify_credential(
                    request.token,
                    keys,
                    issuer=self.issuer,
                    audience=grant.audience,
                    now=grant.expires_at - 1,
                    leeway=LEEWAY_S,
                )
            except TokenRefused:
                continue
            if claims.grant == grant.id:
                return grant
        raise No(request.finding or "invalid_token", "not a credential of this broker")

    def _bound(self, grant: GrantRow, request: RedeemRequest) -> None:
        try:
            seen = request_digest_of(request.method, request.url, request.body)
            verify_proof(
                request.proof,
                htm=request.method,
                htu=request.url,
                now=self.clock.now(),
                leeway=LEEWAY_S,
                ath=token_hash(request.token),
                jkt=grant.jkt,
            )
        except DigestError as bad:
            raise No("invalid_request", str(bad)) from None
        except TokenRefused as bad:
            code = "wrong_workload" if bad.reason == "binding" else "invalid_proof"
            raise No(code, str(bad)) from None
        if seen != grant.request:
            raise No("request_changed", "the credential is for another request")

    def _spend(self, grant: GrantRow) -> None:
        if grant.state == "redeemed":
            raise No("replay", "the credential was used before")
        if grant.state != "issued":
            raise No(grant.state, f"the credential is {grant.state}")
        if not self.clock.now() < grant.expires_at:
            raise No("expired", "the credential has expired")
        self._live(grant.step, "accepted")
        self.registry.test(grant.step.tool, "redeem")
        grant.state = "redeemed"

    def expire_all(self) -> None:
        """The minute of every live credential and step token is over, and the time of every approval."""
        for grant in self._grants.values():
            grant.state = "expired" if grant.state == "issued" else grant.state
        for row in self._steps.values():
            row.tokens.clear()
            if row.approval is not None and row.approval.state == "asked":
                row.approval.state = "expired"

    def steps(self) -> list[StepRow]:
        """Every step, oldest first."""
        return list(self._steps.values())
