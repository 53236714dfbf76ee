"""The witness: what it cosigns, what it refuses and with which status, and what it never forgets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.witness.helpers import NOW, ORIGIN, W1, Log, witness_at

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.merkle import Checkpoint
from stepwrit_broker.core.tlog import AddCheckpoint
from stepwrit_broker.core.witnessing import Declined, judge
from stepwrit_broker.ledger.cosignature import cosigned
from stepwrit_broker.ledger.notes import NoteVerifier, sign_note
from stepwrit_broker.ledger.witness import state as states
from stepwrit_broker.ledger.witness.state import WitnessState, create_state, read_state
from stepwrit_broker.ledger.witness.witness import MAX_BODY_BYTES, Witness

FOREIGN = json.loads((Path(__file__).parents[1] / "vectors" / "tlog.json").read_text())["litewitness"]


class Setting:
    def __init__(self, path: Path) -> None:
        self.path, self.log = path, Log().add(5)
        self.witness, self.state = witness_at(path)

    def size(self) -> int:
        latest = self.witness.witnessed()[ORIGIN]
        return 0 if latest is None else latest.size

    def again(self) -> None:
        """The witness ends and starts on the same file."""
        self.state.close()
        self.witness, self.state = witness_at(self.path)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path / "witness.json")
    yield made
    made.state.close()


def declined(witness: Witness, body: bytes) -> Declined:
    with pytest.raises(Declined) as refusal:
        witness.add_checkpoint(body)
    return refusal.value


def test_a_log_that_grows_is_cosigned_step_by_step(one: Setting):
    for old, size in ((0, 1), (1, 4), (4, 4), (4, 5)):
        line = one.witness.add_checkpoint(one.log.request(old, size))
        (made,) = cosigned(one.log.note(size) + line, [W1.verifier])
        assert (made.at, one.size()) == (NOW, size)


def test_the_requests_of_litewitness_get_its_answers(tmp_path: Path):
    create_state(tmp_path / "w.json")
    state = WitnessState(tmp_path / "w.json")
    key = NoteVerifier(name=FOREIGN["origin"], public=bytes.fromhex(FOREIGN["public"]))
    witness = Witness(W1, [key], state, lambda: NOW)
    assert len(FOREIGN["requests"]) == 9
    for each in FOREIGN["requests"]:
        body = each["body"].encode()
        if each["status"] == 200:
            assert witness.add_checkpoint(body).startswith("— witness.example/w1 ")
        else:
            refusal = declined(witness, body)
            assert (refusal.status, refusal.size) == (each["status"], each.get("size"))
    state.close()


def test_a_log_cut_back_is_refused_and_the_size_it_had_is_told(one: Setting):
    one.witness.add_checkpoint(one.log.request(0, 5))
    refusal = declined(one.witness, one.log.request(0, 3))
    assert (refusal.status, refusal.size, refusal.forked) == (409, 5, False)
    assert declined(one.witness, one.log.request(3, 3)).size == 5
    assert one.size() == 5


def test_a_second_root_for_one_size_is_refused_and_kept_as_evidence(one: Setting):
    one.witness.add_checkpoint(one.log.request(0))
    fork = Log().add(4).add(1, b"other")
    refusal = declined(one.witness, fork.request(5))
    assert (refusal.status, refusal.size, refusal.forked) == (409, 5, True)
    kept = json.loads(one.path.with_name("witness.json.evidence").read_text())
    assert kept["first"].startswith(one.log.note())
    assert kept["second"] == fork.note()
    assert one.witness.add_checkpoint(one.log.request(5)), "the honest one goes on"


def test_a_history_that_does_not_extend_the_cosigned_one_is_refused(one: Setting):
    one.witness.add_checkpoint(one.log.request(0))
    fork = Log().add(4).add(5, b"other")
    assert declined(one.witness, fork.request(5)).status == 422
    honest = Log().add(9)
    assert one.witness.add_checkpoint(honest.request(5))


def test_what_is_no_request_or_of_no_known_log_is_refused(one: Setting, tmp_path: Path):
    good = one.log.request(0)
    stranger = Log(origin="log.example/two").add(5)
    impostor = Log(seed=b"x" * 32).add(5)
    empty = sign_note(Checkpoint(origin=ORIGIN, size=0, root=b"\x01" * 32).text(), [one.log.key])
    no_checkpoint = sign_note(f"{ORIGIN}\nfive\nAAAA\n", [one.log.key])
    for body, status in (
        (stranger.request(0), 404),
        (impostor.request(0), 403),
        (one.log.request(6), 400),
        (b"", 400),
        (b"\xff" + good, 400),
        (good.replace(b"old 0\n", b"old 0\n\n"), 404),
        (good.replace("— ".encode(), b"- "), 403),
        (good + b"x" * MAX_BODY_BYTES, 400),
        (AddCheckpoint(old=0, proof=(), checkpoint=no_checkpoint).text().encode(), 400),
        (AddCheckpoint(old=0, proof=(), checkpoint=empty).text().encode(), 422),
        (good.replace(b"old 0\n", b"old 0\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 422),
    ):
        assert declined(one.witness, body).status == status, body[:60]
    assert one.size() == 0
    assert one.witness.add_checkpoint(good)


def test_what_strangers_put_under_a_note_is_not_kept(one: Setting):
    text = one.log.checkpoint().text()
    more = one.log.note() + "— stranger.example AAAAAAAA\n"
    one.witness.add_checkpoint(AddCheckpoint(old=0, proof=(), checkpoint=more).text().encode())
    latest = one.witness.witnessed()[ORIGIN]
    assert latest is not None
    assert latest.note == one.log.note() + W1.line(text, NOW)


def test_it_remembers_over_a_restart(one: Setting):
    one.witness.add_checkpoint(one.log.request(0))
    one.again()
    assert one.size() == 5
    assert declined(one.witness, one.log.request(0, 3)).size == 5


def test_two_requests_at_once_never_set_it_back(one: Setting):
    one.log.add(60)
    one.witness.add_checkpoint(one.log.request(0, 5))
    bodies = [one.log.request(5, size) for size in range(6, 66)]
    taken: list[int] = []

    def ask(body: bytes) -> None:
        try:
            one.witness.add_checkpoint(body)
            taken.append(200)
        except Declined as refusal:
            taken.append(refusal.status)

    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(taken) == [200] + [409] * 59, "each of them extends 5, so one wins"
    assert read_state(one.path)[ORIGIN].checkpoint.size == one.size()


def test_nothing_is_signed_that_is_not_durable(one: Setting, monkeypatch: pytest.MonkeyPatch):
    one.witness.add_checkpoint(one.log.request(0, 4))
    real = states.replace

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "replace", full)
    with pytest.raises(Unavailable, match="No space left"):
        one.witness.add_checkpoint(one.log.request(4))

    def landed(path: Path, data: bytes) -> None:
        real(path, data)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(states, "replace", landed)
    with pytest.raises(Unavailable):
        one.witness.add_checkpoint(one.log.request(4))
    monkeypatch.setattr(states, "replace", real)
    refusal = declined(one.witness, one.log.request(4))
    assert refusal.size == 5, "the file has it, though nobody was told"
    assert one.witness.add_checkpoint(one.log.request(5))


def test_the_file_is_written_before_the_answer_is_there(one: Setting, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    real = states.replace

    def watched(path: Path, data: bytes) -> None:
        real(path, data)
        seen.append(read_state(path)[ORIGIN].checkpoint.size)

    monkeypatch.setattr(states, "replace", watched)
    one.witness.add_checkpoint(one.log.request(0))
    assert seen == [5]


ZERO = "A" * 43 + "="


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"v": 2, "logs": {}}',
        b'{"v": 1, "logs": {"a": {}}}',
        b'{"v": 1, "logs": {"a": {"at": 1, "note": "b"}}}',
        json.dumps({"v": 1, "logs": {"a": {"at": 1, "note": f"b\n1\n{ZERO}\n\n"}}}).encode(),
    ],
)
def test_a_state_that_cannot_be_read_stops_it_and_never_starts_it_anew(one: Setting, content: bytes):
    one.again()
    one.state.close()
    one.path.write_bytes(content)
    with pytest.raises(Unavailable):
        WitnessState(one.path)
    one.path.unlink()
    with pytest.raises(Unavailable):
        WitnessState(one.path)
    create_state(one.path)
    with pytest.raises(Unavailable):
        create_state(one.path)
    one.state = WitnessState(one.path)


def test_one_process_has_the_state(one: Setting):
    with pytest.raises(Unavailable, match="another process"):
        WitnessState(one.path)
    one.again()


def test_evidence_has_a_size(one: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(states, "EVIDENCE_MAX_BYTES", 1500)
    one.witness.add_checkpoint(one.log.request(0))
    fork = Log().add(5, b"other")
    for _ in range(9):
        assert declined(one.witness, fork.request(5)).forked
    assert 0 < one.path.with_name("witness.json.evidence").stat().st_size <= 1500


def test_a_clock_that_goes_back_does_not_make_a_cosignature_older(tmp_path: Path):
    times = [NOW, NOW - 100]
    witness, state = witness_at(tmp_path / "w.json", now=lambda: times.pop(0))
    log = Log().add(2)
    witness.add_checkpoint(log.request(0, 1))
    line = witness.add_checkpoint(log.request(1, 2))
    assert cosigned(log.note() + line, [W1.verifier])[0].at == NOW
    state.close()


@given(st.data())
def test_only_what_extends_the_latest_passes(data: st.DataObject):
    """A random log, a random prefix of it as the latest, any other tree as the offer."""
    log = Log().add(data.draw(st.integers(1, 40)))
    known = data.draw(st.integers(0, len(log.leaves)))
    forks_at = data.draw(st.integers(0, len(log.leaves)))
    other = Log(leaves=log.leaves[:forks_at]).add(data.draw(st.integers(0, 20)), b"other")
    latest = log.checkpoint(known) if known else None
    proof: tuple[bytes, ...] = ()
    if known <= len(other.leaves):
        from stepwrit_broker.core.merkle import consistency_proof

        proof = tuple(consistency_proof(known, len(other.leaves), other.get))
    asked = AddCheckpoint(old=known, proof=proof, checkpoint="")
    extends = other.leaves[:known] == log.leaves[:known] and len(other.leaves) >= known
    try:
        judge(latest, asked, other.checkpoint())
        assert extends
    except Declined:
        assert not extends
