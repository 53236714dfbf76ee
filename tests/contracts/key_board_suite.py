"""What every `KeyBoard` promises."""

from __future__ import annotations

import asyncio

import pytest

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.ports_fleet import STATEMENT_MAX, KeyBoard, Posted

NOW = 1_900_000_000.0


def posted(name: str = "st-a.1", text: str = "a.b.c", until: float = NOW + 60) -> Posted:
    return Posted(id=name, text=text, until=until)


class KeyBoardSuite:
    """Subclasses give `board`."""

    async def test_what_is_posted_is_read(self, board: KeyBoard) -> None:
        await board.post(posted(), NOW)
        await board.post(posted("at-b.1", "d.e.f"), NOW)
        assert {each.id: each for each in await board.posted(NOW)} == {
            "st-a.1": posted(),
            "at-b.1": posted("at-b.1", "d.e.f"),
        }

    async def test_again_changes_nothing_and_another_text_replaces_none(self, board: KeyBoard) -> None:
        for text in ("a.b.c", "a.b.c", "x.y.z"):
            await board.post(posted(text=text), NOW)
        assert list(await board.posted(NOW)) == [posted()]

    async def test_what_has_ended_is_read_no_more(self, board: KeyBoard) -> None:
        await board.post(posted(), NOW)
        assert list(await board.posted(NOW + 59)) == [posted()]
        assert list(await board.posted(NOW + 60)) == []

    async def test_what_has_ended_is_forgotten_and_its_id_free(self, board: KeyBoard) -> None:
        await board.post(posted(), NOW)
        later = posted(text="x.y.z", until=NOW + 120)
        await board.post(posted("st-b.1", until=NOW + 120), NOW + 61)
        await board.post(later, NOW + 61)
        assert later in await board.posted(NOW + 61)

    async def test_a_statement_has_a_size(self, board: KeyBoard) -> None:
        await board.post(posted(text="x" * STATEMENT_MAX), NOW)
        with pytest.raises(Malformed):
            await board.post(posted("st-b.1", text="x" * (STATEMENT_MAX + 1)), NOW)
        assert [each.id for each in await board.posted(NOW)] == ["st-a.1"]

    async def test_many_at_once_are_all_there(self, board: KeyBoard) -> None:
        await asyncio.gather(*(board.post(posted(f"st-{number}.1"), NOW) for number in range(50)))
        assert len(await board.posted(NOW)) == 50
