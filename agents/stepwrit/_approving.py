"""A step that waits for a person's signature: how the broker is asked about it, and what is remembered.

Asked as RFC 8628 section 3.5 has it: not more often than the interval, five seconds more after `slow_down`,
twice the interval after no answer. Where time is left, the broker is asked to hold its answer until something
happens (RFC 7240 `wait`), and then nobody waits for the interval.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from stepwrit import _verbs as verbs
from stepwrit.errors import ApprovalPendingError, RefusedError, UnavailableError
from stepwrit.flow import Flow, Sender, Wait
from stepwrit.wire import ApprovalAsked, StepOpened

HOLD_S: Final = 25  # the broker's longest is 30
SLOWER_S: Final = 5.0
INTERVAL_MOST_S: Final = 60.0
REMEMBERED: Final = 256

OnApproval = Callable[[ApprovalAsked], Awaitable[None]]
Call = tuple[str, str, str, str]  # parent, server, tool, digest of the arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call waits for its approval, in seconds, and whom it tells of the page meanwhile."""

    seconds: float = 0.0
    on_approval: OnApproval | None = None


@dataclass(slots=True)
class Pending:
    """Calls whose approval nobody waited for to the end: the same call again goes on with the same step.

    Each is taken by one caller only; what nobody comes back to is forgotten.
    """

    _calls: OrderedDict[Call, list[ApprovalAsked]] = field(
        default_factory=OrderedDict[Call, "list[ApprovalAsked]"]
    )

    def put(self, call: Call, asked: ApprovalAsked) -> None:
        """Remember it."""
        self._calls.setdefault(call, []).append(asked)
        while len(self._calls) > REMEMBERED:
            self._calls.popitem(last=False)

    def first(self, call: Call) -> ApprovalAsked | None:
        """What `take` would give, left where it is."""
        found = self._calls.get(call)
        return found[0] if found else None

    def restore(self, call: Call, asked: ApprovalAsked) -> None:
        """Remember it, unless it is remembered."""
        if all(each.id != asked.id for each in self._calls.get(call, ())):
            self.put(call, asked)

    def take(self, call: Call) -> ApprovalAsked | None:
        """The oldest one, for this caller alone; None if there is none."""
        found = self._calls.get(call)
        asked = found.pop(0) if found else None
        if not found:
            self._calls.pop(call, None)
        return asked


def is_page(issuer: str, url: str) -> bool:
    """Whether this is the page of an approval at this broker."""
    name = url.removeprefix(f"{issuer.rstrip('/')}/approvals/apr_")
    return name != url and name.isascii() and name.isalnum()


def approved(sender: Sender, asked: ApprovalAsked, seconds: float) -> Flow[StepOpened]:
    """The step once it is signed, asked for at least once, and for `seconds` at most.

    Raises:
        ApprovalPendingError: nobody signed in this time; the step waits on.
        RefusedError: `access_denied`: a person said no, or it was cancelled; `expired_token`: too late.
        UnavailableError: the broker did not answer at the last.
    """
    until, interval = sender.clock.now() + seconds, float(asked.interval)
    while True:
        began = sender.clock.now()
        said: RefusedError
        try:
            return (yield from verbs.step_token(sender, asked.step, max(0, min(HOLD_S, int(until - began)))))
        except UnavailableError as doubt:
            said, interval = doubt, min(interval * 2, INTERVAL_MOST_S)
        except RefusedError as no:
            said = not_yet = _not_yet(no, asked)
            asked = not_yet.approval
            interval = max(interval + (SLOWER_S if no.code == "slow_down" else 0.0), asked.interval)
        rest = max(0.0, began + interval - sender.clock.now())
        if sender.clock.now() + rest > until:
            raise said
        yield Wait(seconds=rest)


def _not_yet(no: RefusedError, asked: ApprovalAsked) -> ApprovalPendingError:
    """What a poll was told, as what it means to the caller: `slow_down` is about our polls only.

    Raises `no` itself where it is an end.
    """
    if no.code not in ("authorization_pending", "slow_down"):
        raise no
    latest = no.refusal.approval or asked
    return ApprovalPendingError(replace(no.refusal, code="authorization_pending", approval=latest), latest)
