from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contracts.books import Book, PgBook, SqliteBook
from tests.rigs.ledgers import cluster

__all__ = ["cluster"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.live)])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Book]:
    """An empty log, and the view of it."""
    kind: str = request.param
    made: Book
    made = SqliteBook(tmp_path) if kind == "sqlite" else PgBook(request.getfixturevalue("cluster"), tmp_path)
    yield made
    made.close()
