"""Group commit for direct calls: those that come while a transaction is under way share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from stepwrit_broker.core.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")
MOST: Final = 256


class Group(Generic[T, R]):
    """`run` does several at once, all or nothing. Where it refuses, each is tried alone, so that one of them
    cannot fail the others. Where the answer was lost it may have been done: it is not done again.
    """

    def __init__(self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._run = run
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Its answer, once its transaction is durable."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            batch = [each for each in batch if not each[1].done()]
            if not await self._try(batch) and len(batch) > 1:
                for each in batch:
                    await self._try([each])

    async def _try(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> bool:
        try:
            answers = await self._run([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  it is the caller's, who waits for it
            is_over = len(batch) == 1 or isinstance(error, Unavailable)
            for _, waits in batch if is_over else ():
                if not waits.done():
                    waits.set_exception(error)
            return is_over
        for (_, waits), answer in zip(batch, answers, strict=True):
            if not waits.done():
                waits.set_result(answer)
        return True
