"""The in-memory broker: roots that tool servers start for calls that came without a step."""

from __future__ import annotations

from dataclasses import replace

from stepwrit._testing_books import StepRow, Txn
from stepwrit._testing_callers import Caller
from stepwrit._testing_opening import Opening
from stepwrit.wire import CeilingSpec, IntentRequest


class Stepless(Opening):
    """One root for one call."""

    def stepless(self, caller: Caller, request: IntentRequest) -> tuple[StepRow, str]:
        """The root that a server starts for one call that came without a step, and its token."""
        tool = self.registry.own_tool(caller.spiffe_id, request.without_step or "")
        txn = Txn(
            id=self._id("txn"),
            requester=None,
            proof=None,
            origin="server",
            purpose=f"a call of {tool.name} that came without a step",
            expires_at=request.exp,
            without_step=tool.name,
        )
        row = self._root(caller, txn, replace(request, ceiling=CeilingSpec(tools=("*",), impact="low")))
        self._steps[row.id] = row
        self.note("intent", caller, row)
        return row, self._token(row)
