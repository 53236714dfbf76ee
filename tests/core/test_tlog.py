"""The texts of C2SP tlog-witness and tlog-proof: read exactly, written so that they can be read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.tlog import (
    MAX_EXTRA_BYTES,
    AddCheckpoint,
    LogProof,
    TextRefused,
    parse_add_checkpoint,
    parse_proof,
    parse_size,
    proof_lines,
)

H = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw="
NOTE = "log.example\n5\nAAAA\n\n— log.example AAAA\n"
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple)
sizes = st.integers(0, 2**63 - 1)


@given(sizes, hashes)
def test_requests_can_be_read_back(old: int, proof: tuple[bytes, ...]):
    request = AddCheckpoint(old=old, proof=proof, checkpoint=NOTE)
    assert parse_add_checkpoint(request.text()) == request


@given(sizes, hashes, st.none() | st.binary(max_size=300))
def test_proofs_can_be_read_back(index: int, path: tuple[bytes, ...], extra: bytes | None):
    proof = LogProof(index=index, path=path, checkpoint=NOTE, extra=extra)
    assert parse_proof(proof.text()) == proof


def test_a_request_looks_as_the_specification_says():
    assert parse_add_checkpoint(f"old 20852014\n{H}\n\n{NOTE}").proof == (
        bytes.fromhex("3e544d0abc07a6a846aeea6e7b42fb8316e36cc88a03db5e9afb996430e991ac"),
    )
    assert parse_add_checkpoint(f"old 0\n\n{NOTE}") == AddCheckpoint(old=0, proof=(), checkpoint=NOTE)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        f"old 1\n{NOTE}".replace("\n\n", "\n"),
        f"old 01\n\n{NOTE}",
        f"old -1\n\n{NOTE}",
        f"old +1\n\n{NOTE}",
        f"old\n\n{NOTE}",
        f"old  1\n\n{NOTE}",
        f"Old 1\n\n{NOTE}",
        f"old 1 \n\n{NOTE}",
        f"old 1\r\n\n{NOTE}",
        f"old ٣\n\n{NOTE}",
        f"old {2**63}\n\n{NOTE}",
        f"old 1\n{H[:-2]}\n\n{NOTE}",
        f"old 1\n{H[:-2]}x=\n\n{NOTE}",
        f"old 1\nAAAA\n\n{NOTE}",
        f"old 1\n*\n\n{NOTE}",
        "old 1\n" + f"{H}\n" * 64 + f"\n{NOTE}",
        "old 1\n\n",
    ],
)
def test_a_request_in_any_other_form_is_refused(bad: str):
    parse_add_checkpoint(f"old 1\n{H}\n\n{NOTE}")
    parse_add_checkpoint("old 1\n" + f"{H}\n" * 63 + f"\n{NOTE}")
    with pytest.raises(TextRefused):
        parse_add_checkpoint(bad)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "c2sp.org/tlog-proof@v1",
        f"c2sp.org/tlog-proof@v1\n\n{NOTE}",
        f"c2sp.org/tlog-proof@v2\nindex 3\n\n{NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 03\n\n{NOTE}",
        f"c2sp.org/tlog-proof@v1\nextra AAAA\n\n{NOTE}",
        f"c2sp.org/tlog-proof@v1\nextra AAA\nindex 3\n\n{NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 3\nextra AAAA\n\n{NOTE}",
        "c2sp.org/tlog-proof@v1\nindex 3\n" + f"{H}\n" * 64 + f"\n{NOTE}",
        "c2sp.org/tlog-proof@v1\nindex 3\n\n",
        f"c2sp.org/tlog-proof@v1\r\nindex 3\n\n{NOTE}",
    ],
)
def test_a_proof_in_any_other_form_is_refused(bad: str):
    parse_proof(f"c2sp.org/tlog-proof@v1\nextra AAAA\nindex 3\n{H}\n\n{NOTE}")
    with pytest.raises(TextRefused):
        parse_proof(bad)


def test_extra_data_has_a_size():
    parse_proof(LogProof(index=1, path=(), checkpoint=NOTE, extra=b"x" * MAX_EXTRA_BYTES).text())
    with pytest.raises(TextRefused):
        parse_proof(LogProof(index=1, path=(), checkpoint=NOTE, extra=b"x" * (MAX_EXTRA_BYTES + 1)).text())


def test_sizes_are_decimal_numbers():
    assert parse_size("0") == 0
    assert parse_size(str(2**63 - 1)) == 2**63 - 1
    for bad in ("", "00", "1 ", "1\n", "0x1", "²", "9" * 20):
        with pytest.raises(TextRefused):
            parse_size(bad)


def test_proof_lines_are_base64():
    assert proof_lines([b"\x00" * 32]) == ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
