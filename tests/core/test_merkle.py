"""The tree against published values, against a naive second implementation, and against every small lie."""

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.merkle import (
    EMPTY_ROOT,
    Checkpoint,
    CheckpointRefused,
    Frontier,
    GetNode,
    ProofRefused,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    parse_checkpoint,
    root_at,
    root_of,
    verify_consistency,
    verify_inclusion,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "merkle.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(data)) for data in VECTORS["leaves"]]
ROOTS = [EMPTY_ROOT, *(bytes.fromhex(root) for root in VECTORS["roots"])]
sizes = st.integers(1, 140)


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = naive_split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: Sequence[bytes], known: bool) -> list[bytes]:
    """Section 2.1.4.1."""
    if m == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], known), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % i) for i in range(count)]


def getter(leaves: Sequence[bytes]) -> GetNode:
    def get(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "asked for a subtree that is not complete"
        return naive_root(part)

    return get


def hexes(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


def bit_flips(value: bytes) -> Iterator[bytes]:
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def test_the_published_empty_hashes():
    assert EMPTY_ROOT.hex() == VECTORS["empty_root"]
    assert leaf_hash(b"").hex() == VECTORS["empty_leaf"]
    assert Frontier().root == root_of([]) == root_at(0, getter([])) == EMPTY_ROOT


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots_of_the_reference_tree(size: int):
    assert root_of(LEAVES[:size]) == ROOTS[size]
    assert root_at(size, getter(LEAVES)) == ROOTS[size]
    assert naive_root(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize("case", VECTORS["inclusion"])
def test_the_published_inclusion_proofs(case: dict):
    index, size = case["index"], case["size"]
    path = inclusion_proof(index, size, getter(LEAVES))
    assert path == hexes(case["path"])
    verify_inclusion(leaf=LEAVES[index], index=index, size=size, path=path, root=ROOTS[size])


@pytest.mark.parametrize("case", VECTORS["consistency"])
def test_the_published_consistency_proofs(case: dict):
    first, second = case["first"], case["second"]
    path = consistency_proof(first, second, getter(LEAVES))
    assert path == hexes(case["path"])
    verify_consistency(
        first=first, second=second, first_root=ROOTS[first], second_root=ROOTS[second], path=path
    )


@pytest.mark.parametrize("case", VECTORS["inclusion"][1:])
def test_every_published_way_to_spoil_an_inclusion_proof_is_refused(case: dict):
    index, size, path = case["index"], case["size"], hexes(case["path"])
    leaf, root = LEAVES[index], ROOTS[size]
    verify_inclusion(leaf=leaf, index=index, size=size, path=path, root=root)
    spoiled = [
        *((i, size, root, leaf, path) for i in (index - 1, index + 1, index ^ 2)),
        *((index, s, root, leaf, path) for s in (size * 2, size // 2, 0, -1, 2**64)),
        *((index, size, r, leaf, path) for r in (EMPTY_ROOT, LEAVES[0], b"", root[:31])),
        *((index, size, root, lf, path) for lf in (b"WrongLeaf", b"", root)),
        *((index, size, root, leaf, [*path, extra]) for extra in (b"", root)),
        *((index, size, root, leaf, [extra, *path]) for extra in (b"", root)),
        (index, size, root, leaf, path[:-1]),
        (index, size, root, leaf, [path[0], root, *path[1:]]),
        *((index, size, root, leaf, [flip, *path[1:]]) for flip in bit_flips(path[0])),
    ]
    for i, s, r, lf, p in spoiled:
        with pytest.raises(ProofRefused):
            verify_inclusion(leaf=lf, index=i, size=s, path=p, root=r)


@pytest.mark.parametrize("case", VECTORS["consistency"][1:])
def test_every_published_way_to_spoil_a_consistency_proof_is_refused(case: dict):
    first, second, path = case["first"], case["second"], hexes(case["path"])
    old, new = ROOTS[first], ROOTS[second]
    verify_consistency(first=first, second=second, first_root=old, second_root=new, path=path)
    spoiled = [
        *((f, second, old, new, path) for f in (first - 1, first + 1, first ^ 2, -1)),
        *((first, s, old, new, path) for s in (second * 2, second // 2, 0, 2**64)),
        *((first, second, o, new, path) for o in (b"WrongRoot", new, EMPTY_ROOT)),
        *((first, second, old, n, path) for n in (b"WrongRoot", old, EMPTY_ROOT)),
        (first, second, new, old, path),
        (first, second, old, new, []),
        (first, second, old, new, path[:-1]),
        *((first, second, old, new, [*path, extra]) for extra in (b"", old, new)),
        *((first, second, old, new, [extra, *path]) for extra in (b"", old, new, path[0])),
        *((first, second, old, new, [*path[:-1], flip]) for flip in bit_flips(path[-1])),
    ]
    for f, s, o, n, p in spoiled:
        with pytest.raises(ProofRefused):
            verify_consistency(first=f, second=s, first_root=o, second_root=n, path=p)


@pytest.mark.parametrize(
    ("first", "second", "old", "new", "path"),
    [
        (1, 0, ROOTS[1], EMPTY_ROOT, []),
        (2, 1, ROOTS[2], ROOTS[1], []),
        (1, 2, ROOTS[1], ROOTS[2], []),
        (0, 0, EMPTY_ROOT, ROOTS[1], []),
        (1, 1, ROOTS[1], ROOTS[2], []),
        (0, 0, EMPTY_ROOT, EMPTY_ROOT, [ROOTS[1]]),
        (0, 1, EMPTY_ROOT, ROOTS[1], [ROOTS[1]]),
        (1, 1, ROOTS[1], ROOTS[1], [ROOTS[1]]),
        (0, 1, ROOTS[1], ROOTS[1], []),
    ],
)
def test_trivial_consistency_is_exact_too(first: int, second: int, old: bytes, new: bytes, path: list[bytes]):
    verify_consistency(first=0, second=8, first_root=EMPTY_ROOT, second_root=ROOTS[8], path=[])
    verify_consistency(first=8, second=8, first_root=ROOTS[8], second_root=ROOTS[8], path=[])
    with pytest.raises(ProofRefused):
        verify_consistency(first=first, second=second, first_root=old, second_root=new, path=path)


def test_a_path_longer_than_the_tree_is_high_is_refused_even_when_it_leads_to_the_root():
    leaf, more = LEAVES[0], LEAVES[1]
    verify_inclusion(leaf=leaf, index=0, size=1, path=[], root=leaf)
    with pytest.raises(ProofRefused, match="longer"):
        verify_inclusion(leaf=leaf, index=0, size=1, path=[more], root=node_hash(more, leaf))
    path = [LEAVES[2], LEAVES[3], ROOTS[2]]
    verify_consistency(first=3, second=4, first_root=ROOTS[3], second_root=ROOTS[4], path=path)
    old, new = node_hash(more, ROOTS[3]), node_hash(more, ROOTS[4])
    with pytest.raises(ProofRefused, match="longer"):
        verify_consistency(first=3, second=4, first_root=old, second_root=new, path=[*path, more])


@given(sizes)
def test_the_frontier_agrees_with_the_naive_tree(size: int):
    leaves = some_leaves(size)
    frontier = Frontier()
    for count, leaf in enumerate(leaves, 1):
        frontier.append(leaf)
        assert frontier.size == count
    assert frontier.root == naive_root(leaves) == root_of(leaves)
    assert Frontier.at(size, getter(leaves)).peaks == frontier.peaks


@given(sizes, st.data())
def test_a_copy_grows_on_its_own(size: int, data: st.DataObject):
    leaves = some_leaves(size)
    frontier = Frontier()
    frontier.extend(leaves[: data.draw(st.integers(0, size))])
    before, other = frontier.root, frontier.copy()
    other.extend(leaves[other.size :])
    assert (frontier.root, other.root) == (before, naive_root(leaves))


def test_extend_reports_each_completed_tile_top_once():
    leaves = some_leaves(600)
    tops = Frontier().extend(leaves)
    assert tops == [(8, 0, naive_root(leaves[:256])), (8, 1, naive_root(leaves[256:512]))]
    levels = [level for level, _, _ in Frontier().extend(leaves[:1] * 65536)]
    assert (levels.count(8), levels.count(16), len(levels)) == (256, 1, 257)


@given(sizes, st.data())
def test_inclusion_round_trip_for_every_leaf_and_size(size: int, data: st.DataObject):
    leaves = some_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_proof(index, size, getter(leaves))
    assert path == naive_path(index, leaves)
    verify_inclusion(leaf=leaves[index], index=index, size=size, path=path, root=naive_root(leaves))


@given(st.integers(2, 40), st.data())
def test_every_bit_flip_of_an_inclusion_proof_is_refused(size: int, data: st.DataObject):
    leaves, index = some_leaves(size), data.draw(st.integers(0, size - 1))
    path, root = inclusion_proof(index, size, getter(leaves)), root_of(leaves)
    verify_inclusion(leaf=leaves[index], index=index, size=size, path=path, root=root)
    for at in range(len(path)):
        for flip in bit_flips(path[at]):
            spoiled = [*path[:at], flip, *path[at + 1 :]]
            with pytest.raises(ProofRefused):
                verify_inclusion(leaf=leaves[index], index=index, size=size, path=spoiled, root=root)
    for wrong in set(range(size)) - {index}:
        with pytest.raises(ProofRefused):
            verify_inclusion(leaf=leaves[index], index=wrong, size=size, path=path, root=root)


@given(sizes, st.data())
def test_consistency_round_trip_for_every_pair_of_sizes(second: int, data: st.DataObject):
    leaves, first = some_leaves(second), data.draw(st.integers(0, second))
    path = consistency_proof(first, second, getter(leaves))
    assert path == ([] if first == 0 else naive_subproof(first, leaves, True))
    roots = {"first_root": naive_root(leaves[:first]), "second_root": naive_root(leaves)}
    verify_consistency(first=first, second=second, path=path, **roots)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6))
def test_a_chain_of_consistency_proofs_holds_and_a_fork_breaks_it(steps: list[int]):
    heads = [sum(steps[: i + 1]) for i in range(len(steps))]
    leaves = some_leaves(heads[-1])
    forked = [*leaves[: heads[0] - 1], leaf_hash(b"another"), *leaves[heads[0] :]]
    for first, second in pairwise(heads):
        path, old = consistency_proof(first, second, getter(leaves)), root_of(leaves[:first])
        verify_consistency(
            first=first, second=second, first_root=old, second_root=root_of(leaves[:second]), path=path
        )
        lie = consistency_proof(first, second, getter(forked))
        for proof in (path, lie):
            with pytest.raises(ProofRefused):
                verify_consistency(
                    first=first,
                    second=second,
                    first_root=old,
                    second_root=root_of(forked[:second]),
                    path=proof,
                )


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3), (3, 3)])
def test_no_inclusion_proof_for_a_leaf_that_is_not_there(index: int, size: int):
    assert inclusion_proof(0, 1, getter(LEAVES)) == []
    with pytest.raises(ProofRefused):
        inclusion_proof(index, size, getter(LEAVES))


@pytest.mark.parametrize(("first", "second"), [(2, 1), (-1, 3)])
def test_no_consistency_proof_backwards(first: int, second: int):
    assert consistency_proof(2, 2, getter(LEAVES)) == []
    with pytest.raises(ProofRefused):
        consistency_proof(first, second, getter(LEAVES))


@pytest.mark.parametrize(
    ("size", "peaks"), [(3, LEAVES[:1]), (0, LEAVES[:1]), (-1, []), (1, [b"short"]), (-2, LEAVES[:1])]
)
def test_a_frontier_is_not_made_from_the_wrong_hashes(size: int, peaks: list[bytes]):
    assert Frontier(1, LEAVES[:1]).root == ROOTS[1]
    with pytest.raises(ProofRefused):
        Frontier(size, peaks)


EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_the_example_of_the_checkpoint_format_reads_and_writes_back():
    read = parse_checkpoint(EXAMPLE)
    assert (read.origin, read.size, len(read.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert read.text() == EXAMPLE
    assert parse_checkpoint(EXAMPLE + "extension\n").extensions == ("extension",)
    assert Checkpoint(origin="o", size=0, root=EMPTY_ROOT).text().startswith("o\n0\n47DEQpj8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        EXAMPLE[:-1],
        EXAMPLE + "\n",
        "\n" + EXAMPLE,
        EXAMPLE.replace("20852163", "020852163"),
        EXAMPLE.replace("20852163", "+20852163"),
        EXAMPLE.replace("20852163", "2_0"),
        EXAMPLE.replace("20852163", "٢"),
        EXAMPLE.replace("20852163", "-1"),
        EXAMPLE.replace("20852163", "9" * 19),
        EXAMPLE.replace("20852163", "9" * 6000),
        EXAMPLE.replace("q2I=", "q2J="),
        EXAMPLE.replace("q2I=", "q2I"),
        EXAMPLE.replace("/Xajj", "_Xajj"),
        "example.com/log\n1\nAAAA\n",
        "example.com/log\n1\n",
    ],
)
def test_a_checkpoint_text_with_anything_else_is_refused(text: str):
    parse_checkpoint(EXAMPLE)
    with pytest.raises(CheckpointRefused):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(origin="", size=1, root=ROOTS[1]),
        Checkpoint(origin="a\nb", size=1, root=ROOTS[1]),
        Checkpoint(origin="o", size=-1, root=ROOTS[1]),
        Checkpoint(origin="o", size=1, root=b"short"),
        Checkpoint(origin="o", size=1, root=ROOTS[1], extensions=("",)),
    ],
)
def test_a_checkpoint_that_could_not_be_read_back_is_not_written(checkpoint: Checkpoint):
    with pytest.raises(CheckpointRefused):
        checkpoint.text()


def test_a_checkpoint_that_would_be_read_back_as_another_is_not_written() -> None:
    good = Checkpoint(origin="log.example.test", size=1, root=bytes(32), extensions=("x",))
    assert parse_checkpoint(good.text()) == good
    with pytest.raises(CheckpointRefused):
        Checkpoint(origin="log.example.test", size=1, root=bytes(32), extensions=("x\ny",)).text()
