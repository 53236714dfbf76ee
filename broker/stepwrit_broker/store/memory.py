"""What the one writing process keeps in memory beside the file, and how it is taken back.

Every change goes through the journal: a refused operation is rewound to where it began, a failed batch to
the beginning. What a batch changed of the records is seen by readers only once it is committed.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")


class Missing:
    """Stands for a key that was not there."""


MISSING: Final = Missing()


class Journal:
    """What was there before, so that it can be put back."""

    __slots__ = ("_undo",)

    def __init__(self) -> None:
        self._undo: list[tuple[dict[object, object], object, object]] = []

    def set(self, table: dict[K, V], key: K, value: V) -> None:
        """Put a value, remembering what it replaces."""
        plain = cast("dict[object, object]", table)
        self._undo.append((plain, key, plain.get(key, MISSING)))
        plain[key] = value

    def drop(self, table: dict[K, V], key: K) -> None:
        """Take a key away, remembering its value; nothing when it is not there."""
        if key in table:
            plain = cast("dict[object, object]", table)
            self._undo.append((plain, key, plain.pop(key)))

    def position(self) -> int:
        """Where an operation begins."""
        return len(self._undo)

    def rewind(self, position: int) -> None:
        """Take back everything since `position`, newest first."""
        undo = self._undo
        while len(undo) > position:
            table, key, before = undo.pop()
            if before is MISSING:
                table.pop(key, None)
            else:
                table[key] = before

    def clear(self) -> None:
        """It is committed: nothing of it is ever taken back."""
        self._undo.clear()


class Shelf(Generic[V]):
    """Records by name: those committed, bounded, and above them those of the batch under way."""

    __slots__ = ("_committed", "_journal", "_limit", "_pending")

    def __init__(self, journal: Journal, limit: int) -> None:
        self._journal = journal
        self._limit = limit
        self._committed: dict[str, V] = {}
        self._pending: dict[str, V | None] = {}  # None: changed, and to be read from the file

    def __len__(self) -> int:
        """How many are held."""
        return len(self._committed) + len(self._pending)

    def newest(self, key: str) -> V | None:
        """As the batch under way sees it, if held."""
        if key in self._pending:
            return self._pending[key]
        return self._committed.get(key)

    def committed(self, key: str) -> V | None:
        """As readers see it, if held."""
        return self._committed.get(key)

    def put(self, key: str, value: V) -> None:
        """Hold what the batch made of it."""
        self._journal.set(self._pending, key, value)

    def forget(self, key: str) -> None:
        """Hold it no longer: it has ended, or rows were changed behind its back."""
        self._journal.set(self._pending, key, None)

    def discard(self, key: str) -> None:
        """Hold nothing of it, whatever was committed: the rows it came of are gone."""
        self._committed.pop(key, None)
        self._pending.pop(key, None)

    def fetched(self, key: str, value: V) -> None:
        """Hold what the file says, unless this batch has changed it."""
        if key not in self._pending:
            self._keep(key, value)

    def settle(self) -> None:
        """The batch is committed."""
        for key, value in self._pending.items():
            self._committed.pop(key, None)
            if value is not None:
                self._keep(key, value)
        self._pending.clear()

    def clear(self) -> None:
        """Forget everything; the file knows."""
        self._committed.clear()
        self._pending.clear()

    def _keep(self, key: str, value: V) -> None:
        self._committed[key] = value
        if len(self._committed) > self._limit:
            del self._committed[next(iter(self._committed))]
