"""What Redis refuses or does not answer, as the store's one word for it."""

from __future__ import annotations

from typing import Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
)

from stepwrit_broker.core.errors import Unavailable

RETRY_S: Final = 1.0
_SILENT: Final = "the fleet's Redis does not answer; what was asked may have been done"
_REASONS: Final = (
    (OutOfMemoryError, "the fleet's Redis has no memory left"),
    ((NoPermissionError, AuthenticationError, AuthorizationError), "the fleet's Redis does not let us in"),
)


def doubtful(cause: BaseException | None = None) -> Unavailable:
    """The connection is lost, or silent for too long: nobody knows whether it was done."""
    return _unavailable(_SILENT, cause)


def refused(reply: RedisError) -> Unavailable:
    """Redis answered with an error, before the script ran or wrote anything."""
    for kinds, reason in _REASONS:
        if isinstance(reply, kinds):
            return _unavailable(reason, reply)
    return _unavailable("the fleet's Redis cannot do this now", reply)


def other_layout(found: str) -> Unavailable:
    """A broker of another version began the epoch."""
    return _unavailable(f"a broker of another version keeps the fleet's Redis in layout {found}", None)


def misplaced(what: str) -> Unavailable:
    """No server has what is asked for, or the one that is named is not it."""
    return _unavailable(f"the fleet's Redis: {what}", None)


def _unavailable(reason: str, cause: BaseException | None) -> Unavailable:
    problem = Unavailable(
        "unavailable",
        reason,
        rule="store",
        retry_after=RETRY_S,
        who_can_change_it="the operator",
    )
    problem.__cause__ = cause
    return problem
