"""The SDK's one error tree.

StepwritError
├── RefusedError          the broker, the guard or the SDK said no; `.refusal` says why
│   └── ApprovalPendingError   not yet: a person must sign; `.approval` says where
├── UnavailableError      in doubt, nothing was granted; retry after `.refusal.retry_after` seconds
├── OutcomeUnknownError   a reply was lost after the deed may have been done; `.grant` names it
├── IdentityUnavailable   no usable SVID (see `stepwrit.identity`)
└── ConfigurationError    a setting is missing or wrong; the message says which
"""

from __future__ import annotations

from stepwrit.wire import ApprovalAsked, Refusal


class StepwritError(Exception):
    """The root. Never raised itself."""


class ConfigurationError(StepwritError):
    """A setting is missing or wrong; the message says which and what to do."""


class IdentityUnavailable(StepwritError):  # noqa: N818  reads as a state, like ConnectionRefused
    """No usable SVID now; the message names the socket and what is missing."""


class RefusedError(StepwritError):
    """A typed no. The same call again gets the same answer unless something is changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(describe(refusal))
        self.refusal = refusal

    @property
    def code(self) -> str:
        """The stable word of `stepwrit.wire.Code`."""
        return self.refusal.code

    @property
    def ref(self) -> str | None:
        """The short name that `stepwrit explain` takes."""
        return self.refusal.ref


class ApprovalPendingError(RefusedError):
    """Not yet: a person must sign first. The step exists, and goes on once it is signed.

    `approval.url` is the page to show to that person; it opens nothing by itself.
    """

    def __init__(self, refusal: Refusal, approval: ApprovalAsked) -> None:
        super().__init__(refusal)
        self.approval = approval


class UnavailableError(RefusedError):
    """In doubt: nothing was granted and nothing spent; a later try may succeed."""


class OutcomeUnknownError(StepwritError):
    """The reply was lost after the request may have taken effect: ask the resource, do not just repeat.

    `grant`: the resource's idempotency key for this request.
    """

    def __init__(self, grant: str) -> None:
        super().__init__(
            f"outcome unknown: the reply to grant {grant} was lost; ask the resource before repeating"
        )
        self.grant = grant


def describe(refusal: Refusal) -> str:
    """One line for a person: what, why, who can change it, when to retry, ref."""
    parts = [f"refused: {refusal.code}: {refusal.reason}"]
    if refusal.approval is not None:
        parts.append(f"sign at {refusal.approval.url} within {refusal.approval.expires_in} s")
    if refusal.rule:
        parts.append(f"rule {refusal.rule}")
    if refusal.retry_after is not None:
        parts.append(f"retry in {refusal.retry_after:g} s")
    if refusal.who_can_change_it:
        parts.append(f"ask {refusal.who_can_change_it}")
    if refusal.ref:
        parts.append(f"stepwrit explain {refusal.ref}")
    return "; ".join(parts)


def for_model(refusal: Refusal) -> str:
    """One line that may be shown to a model: code, retry and ref; never policy text.

    Of an approval that is pending also the page's address, for the person that the model talks to.
    """
    wait = "" if refusal.retry_after is None else f" retry in {refusal.retry_after:g} s."
    if refusal.approval is not None:
        wait = (
            f" a person must sign at {refusal.approval.url} within {refusal.approval.expires_in} s;"
            " after that make the same call again."
        )
    ref = "" if refusal.ref is None else f" ref {refusal.ref}"
    return f"refused: {refusal.code}.{wait}{ref}"
