"""Who is told of approvals: the channels that broker.toml names, their workers, and how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from stepwrit_broker.approvals.mail import CHANNEL, Mail, Mailer, MailServer, deliver
from stepwrit_broker.approvals.outbox import LastGood, Outbox
from stepwrit_broker.approvals.webhook import Hook, Message, Webhook
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_approval import Notice

FLUSH_S: Final = 1.0


class Notifying:
    """Makes the channels. Raises Malformed where a secret or CA file cannot be used."""

    def __init__(
        self,
        hooks: tuple[Hook, ...],
        server: MailServer | None,
        *,
        registry: Callable[[], Registry],
        clock: Clock,
        metrics: Metrics,
        stack: AsyncExitStack,
    ) -> None:
        self._registry, self._clock, self._metrics = registry, clock, metrics
        self._outboxes: list[Outbox[Any]] = []
        self._steady: Final = LastGood(clock)
        self._mailer: Mailer | None = None
        self.channels: list[Callable[[Notice], None]] = [self._hook(each, stack) for each in hooks]
        if server is not None:
            self.channels.append(self._mail(server))

    def _hook(self, hook: Hook, stack: AsyncExitStack) -> Callable[[Notice], None]:
        try:
            webhook = Webhook(hook, self._clock, self._name_of)
        except (OSError, ValueError) as bad:
            raise Malformed("invalid_request", f"webhook {hook.name}: {bad}") from bad
        stack.push_async_callback(webhook.aclose)
        outbox: Outbox[Message] = self._outbox(hook.name, webhook.deliver)

        def channel(notice: Notice) -> None:
            if hook.wants(notice):
                outbox.put(webhook.message(notice), _until(notice, self._steady.now()))

        return channel

    def _mail(self, server: MailServer) -> Mailer:
        outbox: Outbox[Mail] = self._outbox(CHANNEL, partial(deliver, server))
        try:
            self._mailer = Mailer(server, self._email_of, outbox.put, self._metrics.noticed)
        except ValueError as bad:
            raise Malformed("invalid_request", f"mail.sender: {bad}") from bad
        return self._mailer

    def _name_of(self, who: Identity) -> str | None:
        return self._registry().persons.name(who)

    def _email_of(self, person: str) -> str | None:
        return self._registry().emails.get(person)

    def _outbox(self, name: str, send: Callable[[Any], Coroutine[Any, Any, None]]) -> Outbox[Any]:
        made: Outbox[Any] = Outbox(name, send, clock=self._clock, count=self._metrics.noticed)
        self._outboxes.append(made)
        return made

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """The workers; each runs until cancelled."""
        return [*(each.run for each in self._outboxes), self._flush]

    async def _flush(self) -> None:
        while self._mailer is not None:
            self._mailer.flush(self._steady.now())
            await asyncio.sleep(FLUSH_S)

    def health(self) -> dict[str, object]:
        """Each channel's counts and last failure."""
        return {each.name: each.health() for each in self._outboxes}


def _until(notice: Notice, now: float) -> float:
    """How long anybody wants to know: of what waits until it expires, of an end for an hour."""
    return notice.expires_at if notice.event in ("asked", "reminded", "signed") else now + 3600.0
