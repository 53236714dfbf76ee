"""The adapter on a real OPA: what is refused and where, versions side by side, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
from tests.policy.opa_process import RunningOpa, running_opa
from tests.policy.world import Scene, opening

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.core.verdict import Deny, Permit
from stepwrit_broker.policy.files import compile_policy, load, stance
from stepwrit_broker.policy.opa import Opa, OpaEngine
from stepwrit_broker.policy.opa_http import OpaServer

pytestmark = pytest.mark.live
LOW = Scene(origin="model", impact="low")
HEAD = "package stepwrit\n"
YES = f'{HEAD}permit contains "yes"\n'
NO = f'{HEAD}permit contains "yes"\nforbid contains {{"id": "no", "reason": "not today"}}\n'


@dataclass(frozen=True, kw_only=True)
class Real:
    server: RunningOpa
    opa: Opa
    heard: list[str] = field(default_factory=list)

    def engine(self, *texts: str, facts: str = "{}") -> OpaEngine:
        files = {f"{number}.rego": text for number, text in enumerate(texts)}
        made = compile_policy(load({**files, "facts.json": facts}).doc, 1, self.opa)
        assert isinstance(made, OpaEngine)
        return made

    def modules(self) -> int:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.server.path))) as http:
            return len(http.get("http://opa/v1/policies").json()["result"])


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with running_opa(tmp_path) as server:
        opa = Opa(OpaServer(url=server.url, timeout_s=5, failures=1000), elapsed_s)
        yield Real(server=server, opa=opa)
        await opa.aclose()


@pytest.mark.parametrize("name", ["low-risk", "approval", "workflow"])
async def test_the_shipped_stances_are_proved(real: Real, name: str) -> None:
    engine = compile_policy(load(stance(name, "opa")).doc, 1, real.opa)
    assert isinstance(engine, OpaEngine)
    await engine.prove()
    assert isinstance(await engine.decide(opening(LOW)), Permit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}\npermit contains x if y\n", "1.rego:3: "),
        (f"{HEAD}\n\npermit contains (\n", "1.rego:"),
        (f"{HEAD}permit := true\n", "conflicting rules data.stepwrit.permit"),
        (f"{HEAD}x := http.send({{}}).body\n", "1.rego:2: http.send"),
        (f"{HEAD}\nx := data.users\n", "1.rego:3: data"),
        (f"{HEAD}\nx := data\n", "data"),
        (f"{HEAD}x := data.stepwrit.permit\n", "1.rego:2: data"),
        (f"{HEAD}x := 1 if true\nimport data.users as u\ny := u\n", "data"),
        (f"{HEAD}x := time.now_ns()\n", "1.rego:2: time.now_ns"),
        (f"{HEAD}x := 1 if {{ true with http.send as 2 }}\n", "http.send"),
    ],
)
async def test_what_is_refused_is_named_by_file_and_line_and_leaves_nothing(
    real: Real, text: str, said: str
) -> None:
    await real.engine(YES).prove()
    with pytest.raises(Malformed) as caught:
        await real.engine(YES, text).prove()
    assert said in caught.value.reason
    assert real.modules() == 1


async def test_a_file_that_leaves_a_string_open_swallows_none(real: Real) -> None:
    tail = 'y := `\n`\nforbid contains {"id": "no", "reason": "no"}\n'
    await real.engine(YES, f"{HEAD}{tail}").prove()
    with pytest.raises(Malformed):
        await real.engine(f"{YES}x := `\n", f"{HEAD}{tail}").prove()
    with pytest.raises(Malformed):
        await real.engine(f"{YES}x := `\n", f"{HEAD}y := `\n").prove()


async def test_versions_live_side_by_side_and_going_back_asks_nothing_of_opa(real: Real) -> None:
    yes, no = real.engine(YES), real.engine(NO)
    for engine in (yes, no):
        await engine.prove()
    for _ in range(3):
        assert isinstance(await yes.decide(opening(LOW)), Permit)
        assert await no.decide(opening(LOW)) == Deny(policies=("no",), reason="not today")


async def test_an_opa_that_restarted_is_given_the_policy_again(real: Real) -> None:
    engine = real.engine(NO)
    await engine.prove()
    await real.server.stop()
    with pytest.raises(Unavailable):
        await engine.decide(opening(LOW))
    await real.server.start()
    assert real.modules() == 0
    many = await asyncio.gather(*(engine.decide(opening(LOW)) for _ in range(16)))
    assert many == [Deny(policies=("no",), reason="not today")] * 16
    assert real.modules() == 1


async def test_a_rule_reads_a_declared_fact(real: Real) -> None:
    big = 'forbid contains {"id": "big", "reason": "too much"} if not small\n'
    big += "small if input.facts.amount <= 1000\n"
    engine = real.engine(f"{YES}{big}", facts='{"amount": "Long"}')
    assert isinstance(await engine.decide(opening(replace(LOW, facts=(("amount", 5),)))), Permit)
    assert isinstance(await engine.decide(opening(replace(LOW, facts=(("amount", 2**53 + 1),)))), Deny)
    assert isinstance(await engine.decide(opening(LOW)), Deny), "a missing fact is not a small one"


async def test_a_policy_that_errs_on_an_input_denies_that_input_only(real: Real) -> None:
    err = 'forbid contains {"id": "no", "reason": "no"} if to_number(input.facts.n) > 5\n'
    engine = real.engine(f"{YES}{err}", facts='{"n": "String"}')
    assert isinstance(await engine.decide(opening(replace(LOW, facts=(("n", "3"),)))), Permit)
    for _ in range(3):
        assert isinstance(await engine.decide(opening(replace(LOW, facts=(("n", "x"),)))), Deny)
    assert isinstance(await engine.decide(opening(replace(LOW, facts=(("n", "3"),)))), Permit)
