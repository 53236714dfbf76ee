"""The contract of the store's guard: what must not be granted while the ledger is in doubt is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from tests.contracts import store_suite_deferred
from tests.contracts.store_suite import House, refusal

from stepwrit_broker.core.errors import Unavailable

GRANTS = ("open", "accept", "resume", "reserve", "redeem")


async def granting(house: House) -> dict[str, Callable[[], Awaitable[object]]]:
    """A call of each verb that grants something; each would succeed."""
    root = await house.root(expires_at=house.now + 7200)
    job = await store_suite_deferred.deferred(house, root)
    waits, runs, grant = await house.child(), await house.accepted(), await house.issued()
    return {
        "open": lambda: house.store.open(house.make.open(house.make.child_step(root))),
        "accept": lambda: house.store.accept(house.make.accept(waits)),
        "resume": lambda: house.store.resume(house.make.resume(job)),
        "reserve": lambda: house.store.reserve(house.make.reserve(house.make.grant(runs))),
        "redeem": lambda: house.store.redeem(house.make.redeem(grant)),
    }


class GuardContract:
    @pytest.mark.parametrize("verb", GRANTS)
    async def test_nothing_is_granted_that_the_guard_refuses(self, house: House, verb: str) -> None:
        """A ledger that was set back must not grant by any verb."""
        tries, asked = await granting(house), list[str]()
        kinds = house.kinds()

        def refuse(name: str) -> None:
            asked.append(name)
            raise Unavailable("unavailable", "another history", rule="witness")

        house.store.set_guard(refuse)
        assert (await refusal(tries[verb]())).rule == "witness"
        assert (asked, house.kinds()) == ([verb], kinds)
        house.store.set_guard(asked.append)
        await tries[verb]()
        assert len(house.kinds()) > len(kinds)
