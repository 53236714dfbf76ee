"""The broker as a client sees it: `Broker` for event loops, `SyncBroker` for threads.

Both are thin drivers round the flows of `stepwrit.flow`. Nothing starts before the first verb: the first one
waits for the workload's SVID (at most ten seconds) and opens the connection, every later one reuses both.

All verbs raise RefusedError (a no), UnavailableError (nobody could say yes) and IdentityUnavailable.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, Self, TypeVar

import anyio
import anyio.to_thread

from stepwrit import _verbs as verbs
from stepwrit._alive import Alive
from stepwrit._approving import OnApproval, approved
from stepwrit._base import Client, Parts, unverified_jti
from stepwrit._drive import Count, counted, drive, drive_sync
from stepwrit._feed import OK, refused_stream
from stepwrit._reply import local
from stepwrit._settings import Settings
from stepwrit._transport import (
    Attested,
    Borrowed,
    HttpTransport,
    Streaming,
    SyncHttpTransport,
    SyncTransport,
    Transport,
    Who,
)
from stepwrit._verbs import CredentialGranted, GrantMade, IntentGranted, Published, Subject
from stepwrit.errors import ApprovalPendingError, ConfigurationError, RefusedError, StepwritError
from stepwrit.flow import Flow, Request
from stepwrit.identity import WorkloadIdentity
from stepwrit.jws import UnknownKey, VerifyKey
from stepwrit.tokens import StepToken
from stepwrit.wire import (
    AcceptRequest,
    ApprovalAsked,
    IntentRequest,
    MarkRequest,
    MarkSet,
    OpenStepRequest,
    Outcome,
    Redeemed,
    RedeemRequest,
    RequestDetails,
    StepAccepted,
    StepOpened,
    StepStatus,
)
from stepwrit.wire_chain import PeerBroker
from stepwrit.wire_deferred import StepResumed
from stepwrit.wire_ended import EndedSteps
from stepwrit.wire_feed import FEED_PATH
from stepwrit.wire_tasks import AttendRequest

if TYPE_CHECKING:
    from stepwrit.jobs import AsyncJob, SyncJob

__all__ = ["Broker", "Parts", "SyncBroker", "SyncTransport", "Transport"]

T = TypeVar("T")
GIVE_UP_S: Final = 5.0


class Broker(Client):
    """The broker, for event loops (asyncio or trio).

    transport: the way there. who: our SPIFFE ID, or what knows it. sleep: seconds, between tries.
    """

    def __init__(
        self,
        transport: Transport,
        who: Who | str,
        parts: Parts | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        super().__init__(who, parts or Parts())
        self._transport: Final = transport
        self._sleep: Final = sleep
        self._fetching: Final = anyio.Lock()
        self.alive: Final = Alive(self)
        self._beyond: Final[dict[PeerBroker, Broker]] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """By SPIFFE_ENDPOINT_SOCKET, STEPWRIT_SPIFFE_HINT, STEPWRIT_BROKER and STEPWRIT_BROKER_ID.

        Raises ConfigurationError.
        """
        settings = Settings.read(environ)
        identity = WorkloadIdentity(settings.socket, hint=settings.hint)
        transport = HttpTransport(settings.broker, identity, settings.broker_id)
        return cls(transport, Attested(identity), Parts(base_url=settings.broker))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begin to prove who we are, without waiting for it; the first verb would do it."""
        self._who.start()

    async def aclose(self) -> None:
        """Let go of connections and identity. The client cannot be used afterwards."""
        for other in self._beyond.values():
            await other.aclose()
        await self._transport.close()
        await anyio.to_thread.run_sync(self._who.stop)

    async def ready(self) -> str:
        """Our SPIFFE ID: waits for the first one at most ten seconds. Raises IdentityUnavailable."""
        if not self._who.known:
            self._who.start()
            await anyio.to_thread.run_sync(self._who.wait, self._patience, abandon_on_cancel=True)
        return self._met()

    async def _run(self, verb: str, flow: Flow[T]) -> T:
        count = Count()
        with counted(verb, self._sender.clock, count):
            await self.ready()
            self._observe()
            return await drive(flow, self._transport, self._sleep, count)

    async def start_intent(self, subject: Subject, request: IntentRequest) -> IntentGranted:
        """Exchange a person's ID token (or a trigger's word) for the root of a transaction."""
        return await self._run("intent", verbs.intent(self._sender, subject, request))

    async def open(
        self,
        request: OpenStepRequest,
        *,
        wait_for_approval: float = 0.0,
        on_approval: OnApproval | None = None,
    ) -> StepOpened:
        """Open a child of a step that we perform, or of our intent.

        wait_for_approval: seconds, where a person must sign first. on_approval: is told, once, which page to
        show. Whoever is cancelled while it waits gives the step up: nobody is asked to sign it any more.

        Raises:
            ApprovalPendingError: nobody signed in this time; `approved` goes on waiting for the same step.
            RefusedError: a no; `access_denied` and `expired_token` are those of the approval.
        """
        try:
            return await self._run("open", verbs.open_step(self._sender, request))
        except ApprovalPendingError as pending:
            if wait_for_approval <= 0:
                raise
            asked = pending.approval
        try:
            if on_approval is not None:
                await on_approval(asked)
            return await self.approved(asked, wait_for_approval)
        except anyio.get_cancelled_exc_class():
            await self._give_up(asked)
            raise

    async def approved(self, asked: ApprovalAsked, seconds: float = 0.0) -> StepOpened:
        """The step once its approval is signed, waited for `seconds` at most; 0 asks once.

        Raises as `open`.
        """
        return await self._run("approved", approved(self._sender, asked, seconds))

    async def _give_up(self, asked: ApprovalAsked) -> None:
        with anyio.move_on_after(GIVE_UP_S, shield=True), contextlib.suppress(StepwritError):
            await self.mark(
                MarkRequest(verb="revoke", target=f"step:{asked.step}", reason="its caller went away")
            )

    async def step_token(self, step: str) -> StepOpened:
        """A fresh step token for the next round of a step that we opened."""
        return await self._run("token", verbs.step_token(self._sender, step))

    async def accept(self, step: str, request: AcceptRequest) -> StepAccepted:
        """Accept a round of a step, or report why it is refused here."""
        return await self._run("accept", verbs.accept(self._sender, step, request))

    async def resume(self, step: str) -> StepResumed:
        """Take the next run of a deferred step; its performer alone, and if all still stands."""
        return await self._run("resume", verbs.resume(self._sender, step))

    @asynccontextmanager
    async def resumed(self, step: str) -> AsyncGenerator[AsyncJob]:
        """Take a deferred step's next run, and perform it: the current step of the block, kept alive, and
        closed as the block ends.

        Raises:
            RefusedError: `replay` while another worker runs it, `already_done` once one has: the job is to be
                taken off its queue. Every other no of now; `authorization_pending` and `frozen` may become a
                yes. After the block: `revoked`, `expired` or `closed`, where others ended the step meanwhile.
        """
        from stepwrit import jobs  # noqa: PLC0415  which is built on this

        async with jobs.running(self, await self.resume(step)) as job:
            yield job

    async def wait(self, step: str, round: int, state: str | None = None) -> StepStatus:  # noqa: A002
        """The call answered "input required": the step waits for round + 1.

        state: digest of what that round must bring back.
        """
        return await self._run("wait", verbs.wait(self._sender, step, round, state))

    async def heartbeat(self, step: str) -> StepStatus:
        """The step is still running."""
        return await self._run("heartbeat", verbs.heartbeat(self._sender, step))

    async def attend(self, step: str, request: AttendRequest) -> StepStatus:
        """Whether the step's initiator may ask this of the task that the step became; a proof is good once.

        Raises:
            RefusedError: it did not send it, or may not any more.
        """
        return await self._run("attend", verbs.attend(self._sender, step, request))

    async def ended(self, after: str | None, hold_s: int = 0) -> EndedSteps:
        """Which of the steps that we run were ended by others, since `after` of the last answer."""
        return await self._run("ended", verbs.ended(self._sender, after, hold_s))

    @asynccontextmanager
    async def revocations(self, since: float, silence_s: float) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The feed of revocations as it comes (`stepwrit.wire_feed`), for roles resource, mcp-server and
        operator. since: seconds since the epoch. silence_s: how long nothing may come.

        Raises:
            ConfigurationError: the transport cannot hold an answer that goes on.
        """
        await self.ready()
        if not isinstance(self._transport, Streaming):
            raise ConfigurationError("this transport holds no feed of revocations")
        path = f"{FEED_PATH}?since={max(0.0, since):.0f}"
        headers = {"Accept": "text/event-stream"}
        request = Request(method="GET", path=path, headers=headers)
        async with self._transport.stream(request, silence_s) as streamed:
            if streamed.status != OK:
                raise await refused_stream(streamed.chunks)
            yield streamed.chunks

    async def close_step(self, step: str, outcome: Outcome) -> StepStatus:
        """The step has ended."""
        return await self._run("close", verbs.close(self._sender, step, outcome))

    async def credential(self, *, step: str, resource: str, details: RequestDetails) -> CredentialGranted:
        """A credential for one request of an accepted step's plan."""
        flow = verbs.credential(self._sender, step=step, resource=resource, details=details)
        return await self._run("credential", flow)

    async def grant(self, step: str, issuer: str) -> GrantMade:
        """A grant of a step that we opened, for the other trust domain's broker that its tool belongs to."""
        return await self._run("grant", verbs.grant(self._sender, step=step, issuer=issuer))

    async def start_granted(self, grant: str) -> IntentGranted:
        """The root of a transaction, for another broker's grant."""
        return await self._run("granted", verbs.granted(self._sender, grant))

    def beyond(self, peer: PeerBroker) -> Broker:
        """The client of another trust domain's broker: the same workload, by the same key. Closed with this.

        Raises:
            RefusedError: `unavailable`: this client has no SVID to go there with.
        """
        if peer not in self._beyond:
            self._beyond[peer] = Broker(
                self._way_to(peer), Borrowed(self._who), self._parts(peer.url), sleep=self._sleep
            )
        return self._beyond[peer]

    def _way_to(self, peer: PeerBroker) -> Transport:
        if not isinstance(self._who, Attested):
            raise RefusedError(
                local("unavailable", "another broker is reached by an SVID, and there is none")
            )
        return HttpTransport(peer.url, self._who.identity, peer.broker_id)

    async def mark(self, request: MarkRequest) -> MarkSet:
        """Revoke, freeze or unfreeze."""
        return await self._run("mark", verbs.mark(self._sender, request))

    async def redeem(self, request: RedeemRequest) -> Redeemed:
        """Exchange a credential for the go-ahead, once; a lost reply is asked for again as the same try.

        Raises:
            OutcomeUnknownError: no reply came, and the use may be on record.
        """
        grant = unverified_jti(request.token)
        return await self._run("redeem", verbs.redeem(self._sender, request, grant=grant))

    async def known_issuer(self) -> str:
        """The `iss` of the broker's tokens, under which its pages are; asked for once."""
        if self._ring.published is None:
            await self._fetch_since(None)
        return self.issuer

    async def keys(self) -> Mapping[str, VerifyKey]:
        """All the broker's public keys by `kid`, asked for now."""
        keys = (await self._fetch()).keys
        return {**keys.step, **keys.credential}

    async def step_claims(self, token: str) -> StepToken:
        """A step token's claims, verified here; the broker is asked only for keys, and seldom.

        Raises:
            TokenRefused: it is not a valid step token of our broker.
        """
        await self.ready()
        if self._ring.stale(self.now()):
            await self._fetch_since(self._ring.published)
        try:
            return self._ring.verified(token, self.now())
        except UnknownKey:
            if not self._ring.may_look_again(self.now()):
                raise
        await self._fetch_since(self._ring.published)
        return self._ring.verified(token, self.now())

    async def _fetch_since(self, seen: Published | None) -> None:
        async with self._fetching:
            if self._ring.published is seen:  # else whoever held the lock has just done it
                await self._fetch()

    async def _fetch(self) -> Published:
        self._ring.published = await self._run("keys", verbs.published(self._sender))
        return self._ring.published


class SyncBroker(Client):
    """The broker, for threads. Verbs as in `Broker`; they block."""

    def __init__(
        self,
        transport: SyncTransport,
        who: Who | str,
        parts: Parts | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(who, parts or Parts())
        self._transport: Final = transport
        self._sleep: Final = sleep

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """By SPIFFE_ENDPOINT_SOCKET, STEPWRIT_SPIFFE_HINT, STEPWRIT_BROKER and STEPWRIT_BROKER_ID.

        Raises ConfigurationError.
        """
        settings = Settings.read(environ)
        identity = WorkloadIdentity(settings.socket, hint=settings.hint)
        transport = SyncHttpTransport(settings.broker, identity, settings.broker_id)
        return cls(transport, Attested(identity), Parts(base_url=settings.broker))

    def __enter__(self) -> Self:
        self._who.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections and identity. The client cannot be used afterwards."""
        self._transport.close()
        self._who.stop()

    def _run(self, verb: str, flow: Flow[T]) -> T:
        count = Count()
        with counted(verb, self._sender.clock, count):
            if not self._who.known:
                self._who.start()
                self._who.wait(self._patience)
            self._met()
            self._observe()
            return drive_sync(flow, self._transport, self._sleep, count)

    def start_intent(self, subject: Subject, request: IntentRequest) -> IntentGranted:
        """Exchange a person's ID token (or a trigger's word) for the root of a transaction."""
        return self._run("intent", verbs.intent(self._sender, subject, request))

    def open(
        self,
        request: OpenStepRequest,
        *,
        wait_for_approval: float = 0.0,
        on_approval: Callable[[ApprovalAsked], None] | None = None,
    ) -> StepOpened:
        """Open a child of a step that we perform, or of our intent. As `Broker.open`."""
        try:
            return self._run("open", verbs.open_step(self._sender, request))
        except ApprovalPendingError as pending:
            if wait_for_approval <= 0:
                raise
            asked = pending.approval
        if on_approval is not None:
            on_approval(asked)
        return self.approved(asked, wait_for_approval)

    def approved(self, asked: ApprovalAsked, seconds: float = 0.0) -> StepOpened:
        """The step once its approval is signed, waited for `seconds` at most; 0 asks once."""
        return self._run("approved", approved(self._sender, asked, seconds))

    def step_token(self, step: str) -> StepOpened:
        """A fresh step token for the next round of a step that we opened."""
        return self._run("token", verbs.step_token(self._sender, step))

    def accept(self, step: str, request: AcceptRequest) -> StepAccepted:
        """Accept a round of a step, or report why it is refused here."""
        return self._run("accept", verbs.accept(self._sender, step, request))

    def resume(self, step: str) -> StepResumed:
        """Take the next run of a deferred step; its performer alone, and if all still stands."""
        return self._run("resume", verbs.resume(self._sender, step))

    @contextmanager
    def resumed(self, step: str) -> Generator[SyncJob]:
        """As `Broker.resumed`; the heartbeats come from a thread of their own."""
        from stepwrit import jobs  # noqa: PLC0415  which is built on this

        with jobs.running_sync(self, self.resume(step)) as job:
            yield job

    def wait(self, step: str, round: int, state: str | None = None) -> StepStatus:  # noqa: A002
        """As `Broker.wait`."""
        return self._run("wait", verbs.wait(self._sender, step, round, state))

    def heartbeat(self, step: str) -> StepStatus:
        """The step is still running."""
        return self._run("heartbeat", verbs.heartbeat(self._sender, step))

    def attend(self, step: str, request: AttendRequest) -> StepStatus:
        """As `Broker.attend`."""
        return self._run("attend", verbs.attend(self._sender, step, request))

    def ended(self, after: str | None, hold_s: int = 0) -> EndedSteps:
        """Which of the steps that we run were ended by others, since `after` of the last answer."""
        return self._run("ended", verbs.ended(self._sender, after, hold_s))

    def close_step(self, step: str, outcome: Outcome) -> StepStatus:
        """The step has ended."""
        return self._run("close", verbs.close(self._sender, step, outcome))

    def credential(self, *, step: str, resource: str, details: RequestDetails) -> CredentialGranted:
        """A credential for one request of an accepted step's plan."""
        flow = verbs.credential(self._sender, step=step, resource=resource, details=details)
        return self._run("credential", flow)

    def mark(self, request: MarkRequest) -> MarkSet:
        """Revoke, freeze or unfreeze."""
        return self._run("mark", verbs.mark(self._sender, request))

    def redeem(self, request: RedeemRequest) -> Redeemed:
        """Exchange a credential for the go-ahead, once; a lost reply is asked for again as the same try.

        Raises:
            OutcomeUnknownError: no reply came, and the use may be on record.
        """
        grant = unverified_jti(request.token)
        return self._run("redeem", verbs.redeem(self._sender, request, grant=grant))
