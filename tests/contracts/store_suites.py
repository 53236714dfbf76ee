"""All suites of the Store port's contract, named once: a suite that is added runs for every store."""

from __future__ import annotations

from typing import Final

from tests.contracts import (
    store_suite,
    store_suite_approvals,
    store_suite_causes,
    store_suite_deferred,
    store_suite_ended,
    store_suite_erasing,
    store_suite_guard,
    store_suite_rules,
    store_suite_tasks,
)

_SUITES: Final[tuple[type, ...]] = (
    store_suite.OperationContract,
    store_suite.OpenContract,
    store_suite_causes.CauseContract,
    store_suite.PastContract,
    store_suite.DeclaredContract,
    store_suite.AcceptContract,
    store_suite_deferred.DeferredContract,
    store_suite.ReserveContract,
    store_suite.RedeemContract,
    store_suite.MoveContract,
    store_suite_tasks.AttendContract,
    store_suite_rules.MarkContract,
    store_suite_rules.VersionContract,
    store_suite_rules.LedgerContract,
    store_suite_rules.ReapContract,
    store_suite_ended.EndedContract,
    store_suite_guard.GuardContract,
    store_suite_erasing.ErasingContract,
    store_suite_rules.PinContract,
    store_suite_approvals.ApprovalContract,
    store_suite_approvals.AuthenticatorContract,
)
_NAMED: Final = {f"Test{suite.__name__.removesuffix('Contract')}": suite for suite in _SUITES}


def tests() -> dict[str, type]:
    """Classes of a module's own, by the names under which pytest finds them: `globals().update(tests())`.

    The module has the fixture `house`.
    """
    return {name: type(name, (suite,), {}) for name, suite in _NAMED.items()}
