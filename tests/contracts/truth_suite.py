"""The contract of the Truth protocol: every MUST once, for every engine. Its test names a fixture `house`.

Each negative case stands after the same call succeeding, so that it fails for the reason it names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from stepwrit_broker.core.errors import Conflict, Problem, Refused
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.ports_approval import Sought
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.sealed import digest_of
from stepwrit_broker.store.fleet.seams import (
    Change,
    Contradiction,
    EpochOver,
    Kept,
    Numbered,
    OpDone,
    Row,
    RuleChange,
    Said,
    Truth,
    Used,
    Work,
)

NOW = 1_700_000_000.0  # past by the engine's own clock too
SHARDS = 4
LATER = NOW + 600


@dataclass
class TruthHouse:
    """Two brokers' views of one empty truth of SHARDS shards, and the bodies that its log has, in order."""

    truth: Truth
    other: Truth
    entries: Callable[[], Awaitable[list[bytes]]]
    seqs: dict[int, int] = field(default_factory=dict)

    async def epoch(self) -> str:
        return (await self.truth.standing()).epoch

    def number(self, work: Work, shard: int = 1) -> tuple[Numbered, Work]:
        """The next of its shard."""
        self.seqs[shard] = self.seqs.get(shard, 0) + 1
        return Numbered(shard, self.seqs[shard], encode(work)), work

    async def put(self, *works: Work, shard: int = 1) -> list[tuple[Numbered, Work]]:
        """Committed in one batch."""
        batch = [self.number(work, shard) for work in works]
        await self.truth.commit(await self.epoch(), batch)
        return batch

    async def fails(self, work: Work, *, match: str = ".", shard: int = 1) -> None:
        """A contradiction that changed nothing, and whose number is still free."""
        before = await self.truth.positions(await self.epoch()), await self.entries()
        seq = self.seqs.get(shard, 0) + 1
        with pytest.raises(Contradiction, match=match):
            await self.truth.commit(await self.epoch(), [(Numbered(shard, seq, encode(work)), work)])
        assert (await self.truth.positions(await self.epoch()), await self.entries()) == before


def work(*changes: Change, **more: object) -> Work:
    return Work(at=NOW, changes=changes, **more)  # type: ignore[arg-type]


def row(table: str, key: str, columns: Sequence[object], ord_: int = 1) -> Row:
    return Row(f"{table}:{key}", ord_, msgspec.msgpack.encode(columns))


def step(name: str, txn: str, *, due: float = LATER, ended: float = 0.0, ord_: int = 2) -> Row:
    columns = (name, txn, None, 0, "accepted", 0, None, 0.0, 0.0, 0.0, 0, ended, due, "{}", "")
    return row("steps", name, columns, ord_)


def grant(name: str, epoch: str, *, state: str = "issued", until: float = LATER, ord_: int = 3) -> Row:
    return row("grants", name, (name, "stp_1", 0, state, epoch, until, "", 0.0, "{}"), ord_)


def approval(
    name: str,
    txn: str,
    *,
    at: float = NOW,
    state: str = "asked",
    by: str = "",
    ended: float = 0.0,
    tenant: str = "t",
    requester: str = "ann",
    initiator: str = "spiffe://a/agent",
    tool: str = "bank/pay",
    ord_: int = 9,
) -> Row:
    asked = json.dumps(["nonce", "p", "kind", [], {}, [], at, at + 60, "text"])
    columns = (
        name, f"stp_{name}", txn, tenant, requester, initiator, tool, state, by, "", ended, asked, None,
    )  # fmt: skip
    return row("approvals", name, columns, ord_)


def new(txn: str, *rows: Row) -> Change:
    return Change(txn=txn, version=0, put=(row("txns", txn, (txn, "stp_1", "{}", 1, 0, LATER)), *rows))


def said(text: str) -> Said:
    return Said(text.encode(), NOW, "step.opened", "txn_1", "ref", "t")


def key(letter: str) -> bytes:
    return letter.encode() * 16


def mark(target: str, verb: str = "freeze", reason: str = "why") -> Mark:
    return Mark(target=target, verb=verb, reason=reason, by="ops", at=NOW, ref="REF")  # type: ignore[arg-type]


def version(number: int, doc: str = "{}") -> StoredVersion:
    return StoredVersion(
        kind="limits", number=number, digest="d", source="f", doc=doc, by="ops", reason="r", at=NOW, ref="REF"
    )


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(Problem) as caught:
        await call
    return caught.value.code


class EpochContract:
    async def test_the_latest_time_of_all_works_outlives_the_epoch(self, house):
        assert (await house.truth.standing()).high == 0.0
        await house.put(Work(at=NOW + 5, changes=()), Work(at=NOW, changes=()))
        epoch = await house.epoch()
        await house.other.next_epoch(epoch, "a" * 32)
        assert (await house.other.standing()).high == NOW + 5

    async def test_one_epoch_follows_another_once(self, house):
        first = await house.truth.standing()
        assert (first.shards, first.rules, len(first.epoch)) == (SHARDS, 0, 32)
        second = await house.truth.next_epoch(first.epoch, "a" * 32)
        assert (second.epoch, second.order) == ("a" * 32, first.order + 1)
        late = await house.other.next_epoch(first.epoch, "b" * 32)
        assert late == second == await house.other.standing()
        assert await house.truth.next_epoch(first.epoch, "a" * 32) == second  # told again

    async def test_who_moves_it_is_one(self, house):
        first = await house.epoch()
        found = await asyncio.gather(
            *(
                each.next_epoch(first, letter * 32)
                for each, letter in ((house.truth, "a"), (house.other, "b"), (house.truth, "c"))
            )
        )
        assert len({each.epoch for each in found}) == 1
        assert found[0].order == 2

    async def test_an_epoch_that_is_over_commits_nothing(self, house):
        await house.put(work(new("txn_1"), entries=(said("one"),)))
        old = await house.epoch()
        await house.truth.next_epoch(old, "a" * 32)
        with pytest.raises(EpochOver):
            await house.other.commit(old, [house.number(work(new("txn_2"), entries=(said("two"),)))])
        with pytest.raises(EpochOver):
            await house.truth.commit(old, [])
        assert await house.truth.transaction("txn_2") is None
        assert await house.entries() == [b"one"]

    async def test_numbers_begin_again_with_an_epoch(self, house):
        old = await house.epoch()
        await house.put(work(new("txn_1")))
        assert (await house.truth.positions(old)).get(1, 0) == 1
        await house.truth.next_epoch(old, "a" * 32)
        assert set((await house.truth.positions("a" * 32)).values()) <= {0}
        with pytest.raises(EpochOver):
            await house.truth.positions(old)
        house.seqs.clear()
        await house.put(work(Change(txn="txn_1", version=1, put=())))

    async def test_the_lease_is_one_brokers(self, house):
        assert await house.truth.lead("one", 60)
        assert await house.truth.lead("one", 60)
        assert not await house.other.lead("other", 60)
        assert await house.truth.lead("one", 0)
        assert await house.other.lead("other", 60)

    async def test_who_leads_is_known_while_its_time_is(self, house):
        assert await house.truth.leader() == ""
        assert await house.truth.lead("one", 60)
        assert await house.other.leader() == "one"
        assert await house.truth.lead("one", 0)
        assert await house.other.leader() == ""

    async def test_the_secret_is_the_first(self, house):
        assert await house.truth.secret(b"1" * 32) == b"1" * 32
        assert await house.other.secret(b"2" * 32) == b"1" * 32


class CommitContract:
    async def test_rows_come_back_as_they_were_first_put(self, house):
        await house.put(
            work(new("txn_1", row("ops", "0a", ("x",), 7), step("stp_1", "txn_1", ord_=5))),
            work(Change(txn="txn_1", version=1, put=(row("ops", "0b", ("y",), 6),), drop=("ops:0a",))),
        )
        found = await house.other.transaction("txn_1")
        assert (found.version, found.seq) == (2, 0)
        assert [each.field for each in found.rows] == ["txns:txn_1", "steps:stp_1", "ops:0b"]
        assert found.rows[2].value == msgspec.msgpack.encode(("y",))
        assert await house.truth.transaction("txn_2") is None

    async def test_a_transaction_without_rows_keeps_its_version(self, house):
        await house.put(work(new("txn_1", step("stp_1", "txn_1"))))
        await house.put(work(Change(txn="txn_1", version=1, put=(), drop=("txns:txn_1", "steps:stp_1"))))
        found = await house.truth.transaction("txn_1")
        assert (found.version, found.rows) == (2, ())
        await house.put(work(Change(txn="txn_1", version=2, put=())))

    async def test_entries_stand_in_the_order_of_the_works(self, house):
        await house.put(work(entries=(said("1"), said("2"))), work(entries=(said("3"),)))
        await house.put(work(entries=(said("4"),)), shard=2)
        assert await house.entries() == [b"1", b"2", b"3", b"4"]

    async def test_it_tells_which_works_it_has_under_which_numbers(self, house):
        one = await house.put(work(new("txn_1")))
        both = await house.put(work(new("txn_2")), work(new("txn_3")))
        epoch, known = await house.epoch(), {}
        for shard, carried in await house.other.carried(epoch, {1: 1, 2: 1}):
            assert shard == 1
            known.update(carried.works())
        assert known == {each.seq: digest_of(each.work) for each, _ in (*one, *both)}
        later = [seq for _, found in await house.truth.carried(epoch, {1: 3}) for seq, _ in found.works()]
        assert max(later) == 3
        assert await house.truth.carried(epoch, {1: 4}) == []
        assert await house.truth.carried("f" * 32, {1: 1}) == []

    async def test_told_again_it_is_nothing_more(self, house):
        batch = await house.put(work(new("txn_1"), entries=(said("1"),), uses=("grt_1",)))
        second = house.number(work(new("txn_2"), entries=(said("2"),)))
        await house.other.commit(await house.epoch(), [*batch, second])
        await house.truth.commit(await house.epoch(), [*batch, second])
        assert await house.entries() == [b"1", b"2"]
        assert (await house.truth.positions(await house.epoch()))[1] == 2

    async def test_a_number_is_one_works(self, house):
        batch = await house.put(work(new("txn_1")), work(new("txn_2")), work(new("txn_3")))
        await house.truth.commit(await house.epoch(), batch)
        other = work(new("txn_4"))
        for seq in (1, 2, 3):
            with pytest.raises(Contradiction):
                await house.truth.commit(await house.epoch(), [(Numbered(1, seq, encode(other)), other)])
        assert await house.truth.transaction("txn_4") is None

    async def test_a_hole_is_a_contradiction(self, house):
        await house.put(work(new("txn_1")))
        one, other = work(new("txn_2")), work(new("txn_3"))
        epoch = await house.epoch()
        for batch in (
            [(Numbered(1, 3, encode(one)), one)],
            [(Numbered(1, 2, encode(one)), one), (Numbered(1, 4, encode(other)), other)],
            [(Numbered(SHARDS, 1, encode(one)), one)],
        ):
            with pytest.raises(Contradiction):
                await house.truth.commit(epoch, batch)
        assert await house.truth.transaction("txn_2") is None
        await house.truth.commit(
            epoch, [(Numbered(1, 2, encode(one)), one), (Numbered(1, 3, encode(other)), other)]
        )

    @pytest.mark.parametrize("version", [0, 1, 3])
    async def test_versions_follow(self, house, version):
        await house.put(work(new("txn_1")), work(Change(txn="txn_1", version=1, put=())))
        await house.fails(work(Change(txn="txn_1", version=version, put=(), drop=())))
        await house.put(work(Change(txn="txn_1", version=2, put=())))

    async def test_a_new_transaction_is_new(self, house):
        await house.put(work(new("txn_1")))
        await house.fails(work(Change(txn="txn_2", version=1, put=())))
        await house.fails(work(new("txn_3"), new("txn_3")))
        await house.put(work(new("txn_2"), new("txn_3")))

    async def test_a_grant_is_used_once(self, house):
        await house.put(work(new("txn_1"), uses=("grt_1", "grt_2")))
        await house.fails(work(uses=("grt_2",), entries=(said("x"),)), match="grant")
        await house.fails(work(uses=("grt_3", "grt_3")))
        await house.truth.next_epoch(await house.epoch(), "a" * 32)
        house.seqs.clear()
        await house.fails(work(uses=("grt_1",)), match="grant")  # whatever the epoch
        await house.put(work(uses=("grt_3",)))

    async def test_a_proof_is_used_once(self, house):
        await house.put(work(proofs=(Used(key("a"), LATER),)))
        assert await house.other.used([key("a"), key("b")]) == {key("a")}
        await house.fails(work(proofs=(Used(key("a"), LATER),)), match="proof")
        await house.put(work(proofs=(Used(key("b"), LATER),)))

    async def test_a_roots_operation_is_done_once(self, house):
        done = OpDone(key("o"), "digest", "stp_1", NOW)
        await house.put(work(ops=(done,)))
        assert await house.other.operation(key("o")) == done
        assert await house.truth.operation(key("p")) is None
        await house.fails(work(ops=(done,)), match="operation")

    async def test_all_of_a_batch_or_nothing(self, house):
        await house.put(work(uses=("grt_1",)))
        good, bad = work(new("txn_1"), entries=(said("good"),)), work(uses=("grt_1",))
        batch = [(Numbered(2, 1, encode(good)), good), (Numbered(1, 2, encode(bad)), bad)]
        with pytest.raises(Contradiction):
            await house.truth.commit(await house.epoch(), batch)
        assert await house.truth.transaction("txn_1") is None
        assert await house.entries() == []
        await house.truth.commit(await house.epoch(), batch[:1])
        assert await house.entries() == [b"good"]

    async def test_two_that_carry_the_same(self, house):
        epoch = await house.epoch()
        batch = [house.number(work(new(f"txn_{n}"), entries=(said(str(n)),))) for n in range(40)]
        await asyncio.gather(
            *(
                each.commit(epoch, batch[:upto])
                for each in (house.truth, house.other)
                for upto in (10, 25, 40)
            ),
            return_exceptions=True,
        )
        await house.truth.commit(epoch, batch)
        assert await house.entries() == [str(n).encode() for n in range(40)]


class SayContract:
    async def test_said_is_appended_by_the_next_commit(self, house):
        await house.other.say([said("a")], [Kept("dg", "ref", b"doc")], [("ref", b"s" * 16)])
        await house.truth.say([said("b")], [], [])
        assert await house.entries() == [b"a", b"b"] or await house.entries() == []
        await house.put(work(entries=(said("c"),)))
        await house.truth.commit(await house.epoch(), [])
        assert sorted(await house.entries()) == [b"a", b"b", b"c"]
        await house.truth.commit(await house.epoch(), [])
        assert len(await house.entries()) == 3

    async def test_many_at_once(self, house):
        await asyncio.gather(*(house.truth.say([said(str(n))], [], []) for n in range(60)))
        await house.truth.commit(await house.epoch(), [])
        assert sorted(map(int, await house.entries())) == list(range(60))

    async def test_a_bearers_first_key_stands(self, house):
        assert await house.truth.pin(key("k"), "one", LATER, [Used(key("a"), LATER)]) == "one"
        assert await house.other.pin(key("k"), "two", LATER, [Used(key("b"), LATER)]) == "one"
        assert await house.truth.used([key("a"), key("b")]) == {key("a")}
        assert await house.other.pin(key("k"), "one", LATER, [Used(key("b"), LATER)]) == "one"

    async def test_a_pins_proofs_are_used_once(self, house):
        await house.truth.pin(key("k"), "one", LATER, [Used(key("a"), LATER)])
        again = house.other.pin(key("k"), "one", LATER, [Used(key("c"), LATER), Used(key("a"), LATER)])
        assert await refusal(again) == "replay"
        assert await house.truth.used([key("c")]) == frozenset()
        await house.fails(work(proofs=(Used(key("a"), LATER),)))
        await house.truth.pin(key("k"), "one", LATER, [Used(key("c"), LATER)])

    async def test_of_many_at_once_one_wins(self, house):
        answers = await asyncio.gather(
            *(each.pin(key("k"), f"{n}", LATER, []) for n in range(20) for each in (house.truth, house.other))
        )
        assert len(set(answers)) == 1
        proof = [Used(key("p"), LATER)]
        calls = [each.pin(key("k"), answers[0], LATER, proof) for each in (house.truth, house.other) * 5]
        tried = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(each == answers[0] for each in tried) == 1
        assert sum(isinstance(each, Refused) for each in tried) == 9


class RuleContract:
    async def test_marks_are_counted_put_and_lifted(self, house):
        assert await house.truth.rule(RuleChange(put=(mark("txn:1"), mark("tool:x")))) == 1
        assert await house.other.rule(RuleChange(lift=("tool:x",))) == 2
        rules = await house.other.rules()
        assert (rules.number, dict(rules.marks)) == (2, {"txn:1": mark("txn:1")})
        assert (await house.truth.standing()).rules == 2

    async def test_a_revocation_is_never_weakened(self, house):
        await house.truth.rule(RuleChange(put=(mark("txn:1", "freeze"),)))
        await house.truth.rule(RuleChange(put=(mark("txn:1", "revoke"),)))
        await house.truth.rule(RuleChange(put=(mark("txn:1", "freeze"),)))
        assert (await house.truth.rules()).marks["txn:1"].verb == "revoke"
        assert await refusal(house.truth.rule(RuleChange(lift=("txn:1",)))) == "not_found"
        assert (await house.truth.rules()).marks["txn:1"].verb == "revoke"

    async def test_what_does_not_stand_cannot_be_lifted(self, house):
        await house.truth.rule(RuleChange(put=(mark("txn:1"),)))
        await house.truth.rule(RuleChange(lift=("txn:1",)))
        again = house.truth.rule(RuleChange(lift=("txn:1",), put=(mark("txn:2"),), said=(said("x"),)))
        assert await refusal(again) == "not_found"
        assert (await house.truth.rules()).number == 2
        assert not (await house.truth.rules()).marks
        await house.truth.commit(await house.epoch(), [])
        assert await house.entries() == []

    async def test_revocations_are_walked(self, house):
        await house.truth.rule(RuleChange(put=(mark("txn:1", "revoke"), mark("txn:2", "revoke"))))
        assert set((await house.other.rules()).unwalked) == {"txn:1", "txn:2"}
        await house.other.walked(["txn:1"])
        assert set((await house.truth.rules()).unwalked) == {"txn:2"}

    async def test_versions_follow_each_other(self, house):
        await house.truth.rule(RuleChange(version=version(1), expected=0))
        await house.truth.rule(RuleChange(version=version(2, "two"), expected=1, put=(mark("txn:1"),)))
        assert (await house.other.rules()).versions == {"limits": version(2, "two")}
        for stale in (0, 1, 3):
            change = RuleChange(version=version(stale + 1), expected=stale, put=(mark("txn:2"),))
            with pytest.raises(Conflict, match="stale_version"):
                await house.other.rule(change)
        assert await house.truth.history("limits") == [version(1), version(2, "two")]
        assert await house.truth.version("limits", 1) == version(1)
        assert await house.truth.version("policy", 1) is None
        assert (await house.truth.rules()).number == 2
        assert "txn:2" not in (await house.truth.rules()).marks

    async def test_of_two_versions_at_once_one_stands(self, house):
        tried = await asyncio.gather(
            *(each.rule(RuleChange(version=version(1), expected=0)) for each in (house.truth, house.other)),
            return_exceptions=True,
        )
        assert sum(each == 1 for each in tried) == 1
        assert sum(isinstance(each, Conflict) for each in tried) == 1

    async def test_a_rules_proofs_are_used_once(self, house):
        await house.truth.rule(RuleChange(put=(mark("txn:1"),), proofs=(Used(key("a"), LATER),)))
        again = RuleChange(put=(mark("txn:2"),), proofs=(Used(key("a"), LATER),))
        assert await refusal(house.other.rule(again)) == "replay"
        assert "txn:2" not in (await house.truth.rules()).marks

    async def test_its_operation_is_answered(self, house):
        done = OpDone(key("o"), "digest", "answer", NOW)
        await house.truth.rule(RuleChange(put=(mark("txn:1"),), op=done, said=(said("x"),)))
        assert await house.other.operation(key("o")) == done
        await house.truth.commit(await house.epoch(), [])
        assert await house.entries() == [b"x"]

    async def test_it_needs_no_epoch(self, house):
        await house.truth.rule(RuleChange(put=(mark("txn:1"),)))
        await house.truth.next_epoch(await house.epoch(), "a" * 32)
        assert await house.truth.rule(RuleChange(put=(mark("txn:2"),))) == 2
        assert set((await house.truth.rules()).marks) == {"txn:1", "txn:2"}


class SearchContract:
    async def test_whose_a_row_is(self, house):
        epoch = await house.epoch()
        rows = (step("stp_1", "txn_1"), grant("grt_1", epoch), approval("apr_1", "txn_1"))
        await house.put(work(new("txn_1", *rows)))
        for each in rows:
            assert await house.other.whose(each.field) == "txn_1"
        assert await house.truth.whose("steps:stp_2") is None
        await house.put(work(Change(txn="txn_1", version=1, put=(), drop=("grants:grt_1",))))
        assert await house.truth.whose("grants:grt_1") is None

    async def test_what_is_due(self, house):
        epoch = await house.epoch()
        await house.put(
            work(new("txn_1", step("stp_1", "txn_1", due=NOW + 30))),
            work(new("txn_2", step("stp_2", "txn_2", due=NOW + 10))),
            work(new("txn_3", step("stp_3", "txn_3"), grant("grt_3", epoch, until=NOW + 20))),
            work(new("txn_4", grant("grt_4", epoch, until=NOW + 5, state="redeemed"))),
        )
        assert await house.truth.due(NOW, 9) == []
        assert await house.truth.due(NOW + 15, 9) == ["txn_2"]
        assert await house.truth.due(NOW + 40, 9) == ["txn_2", "txn_3", "txn_1"]
        assert await house.truth.due(NOW + 40, 1) == ["txn_2"]
        await house.put(work(Change(txn="txn_2", version=1, put=(step("stp_2", "txn_2", due=NOW + 99),))))
        assert await house.truth.due(NOW + 40, 9) == ["txn_3", "txn_1"]

    async def test_many_rows_of_one_do_not_hide_another(self, house):
        many = tuple(step(f"stp_{n}", "txn_1", due=NOW + 1, ord_=n + 2) for n in range(40))
        await house.put(work(new("txn_1", *many)), work(new("txn_2", step("stp_x", "txn_2", due=NOW + 2))))
        assert await house.truth.due(NOW + 9, 2) == ["txn_1", "txn_2"]

    async def test_credentials_of_an_epoch_that_is_over_are_due(self, house):
        epoch = await house.epoch()
        await house.put(work(new("txn_1", grant("grt_1", epoch))))
        await house.put(work(new("txn_2", grant("grt_2", epoch, state="redeemed"))))
        assert await house.truth.due(NOW, 9) == []
        await house.truth.next_epoch(epoch, "a" * 32)
        assert await house.truth.due(NOW, 9) == ["txn_1"]
        assert await house.truth.due(NOW, 9, with_old=False) == []
        assert await house.truth.due(LATER, 9, with_old=False) == ["txn_1"]

    async def test_what_lives(self, house):
        await house.put(
            *(work(new(f"txn_{n}", step(f"stp_{n}", f"txn_{n}"))) for n in (2, 1, 3)),
            work(new("txn_4", step("stp_4", "txn_4", ended=NOW))),
        )
        assert await house.truth.live("", 2) == ["txn_1", "txn_2"]
        assert await house.truth.live("txn_2", 2) == ["txn_3"]
        await house.put(work(Change(txn="txn_3", version=1, put=(step("stp_3", "txn_3", ended=NOW),))))
        assert await house.truth.live("txn_2", 2) == []

    async def test_approvals_are_found(self, house):
        await house.put(
            work(new("txn_1", approval("apr_1", "txn_1", at=NOW + 1))),
            work(new("txn_2", approval("apr_2", "txn_2", at=NOW + 2, tenant="u", tool="bank/see"))),
            work(new("txn_3", approval("apr_3", "txn_3", at=NOW + 3, requester="bob", state="given"))),
        )
        everything = ["apr_3", "apr_2", "apr_1"]
        assert await house.truth.sought(Sought()) == everything
        assert await house.truth.sought(Sought(most=2)) == everything[:2]
        assert await house.truth.sought(Sought(state="asked")) == ["apr_2", "apr_1"]
        for one, found in (
            (Sought(tenant="u"), ["apr_2"]),
            (Sought(requester="bob"), ["apr_3"]),
            (Sought(txn="txn_1"), ["apr_1"]),
            (Sought(tool="bank/see"), ["apr_2"]),
            (Sought(initiator="spiffe://a/agent", tenant="t"), ["apr_3", "apr_1"]),
            (Sought(requester="bob", tenant="u"), []),
        ):
            assert await house.truth.sought(one) == found

    async def test_how_many_wait(self, house):
        assert await house.truth.waiting() == (0, None)
        await house.put(
            work(new("txn_1", approval("apr_1", "txn_1", at=NOW))),
            work(new("txn_2", approval("apr_2", "txn_2", at=NOW + 1))),
        )
        assert await house.other.waiting() == (2, "apr_1")
        gone = approval("apr_1", "txn_1", state="denied", by="ann", ended=NOW + 5)
        await house.put(work(Change(txn="txn_1", version=1, put=(gone,))))
        assert await house.truth.waiting() == (1, "apr_2")
        await house.put(work(Change(txn="txn_2", version=1, put=(), drop=("approvals:apr_2",))))
        assert await house.truth.waiting() == (0, None)
        assert await house.truth.sought(Sought()) == ["apr_1"]

    async def test_what_stands_against_asking(self, house):
        async def asked(since: float = NOW) -> tuple[int, int, float]:
            found: tuple[int, int, float] = await house.truth.asked(
                "ann", "t", "spiffe://a/agent", "bank/pay", since
            )
            return found

        assert await asked() == (0, 0, 0)
        await house.put(
            work(new("txn_1", approval("apr_1", "txn_1"))),
            work(new("txn_2", approval("apr_2", "txn_2", initiator="spiffe://a/other"))),
            work(new("txn_3", approval("apr_3", "txn_3", state="expired", ended=NOW + 5))),
            work(new("txn_4", approval("apr_4", "txn_4", state="cancelled", by="ops", ended=NOW + 5))),
            work(new("txn_5", approval("apr_5", "txn_5", state="denied", by="ann", ended=NOW + 7))),
            work(new("txn_6", approval("apr_6", "txn_6", tenant="u"))),
            work(new("txn_7", approval("apr_7", "txn_7", requester="bob"))),
        )
        assert await asked() == (3, 2, NOW + 7)
        assert await asked(since=NOW + 5) == (2, 1, NOW + 7)


class PurgeContract:
    async def test_marks_on_what_is_gone_are_forgotten(self, house):
        name, other = "txn_1", "txn_2"
        rows = (
            Row(f"txns:{name}", 1, b"\x90"), step("stp_1", name), grant("grt_1", "e", state="redeemed"),
        )  # fmt: skip
        gone = {"txn:txn_1", "step:stp_1", "grant:grt_1"}
        kept = {"txn:txn_2", "step:stp_2", "tool:mail/send", "step:stp_1x"}
        await house.put(work(new(name, *rows)), work(new(other, step("stp_2", other))))
        await house.truth.rule(RuleChange(put=tuple(mark(each) for each in sorted(gone | kept))))
        number = (await house.truth.standing()).rules
        assert set((await house.truth.rules()).marks) == gone | kept
        await house.put(work(Change(txn=name, version=1, put=(), drop=("steps:stp_1",))))
        assert set((await house.truth.rules()).marks) == (gone | kept) - {"step:stp_1"}
        fields = tuple(row.field for row in rows if row.field != "steps:stp_1")
        await house.put(work(Change(txn=name, version=2, put=(), drop=fields)))
        assert set((await house.truth.rules()).marks) == kept
        assert (await house.truth.standing()).rules == number, "nothing that stands is another"

    async def test_only_what_is_too_old_is_forgotten(self, house):
        await house.put(
            work(proofs=(Used(key("a"), NOW - 1), Used(key("b"), LATER))),
            work(uses=("grt_1",)),
        )
        assert await house.truth.purge(NOW, 100) == 1
        assert await house.truth.used([key("a"), key("b")]) == {key("b")}
        assert await house.truth.purge(NOW, 100) == 0
        await house.fails(work(uses=("grt_1",)))
