"""The house that the verbs work with, and what is built along with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx2

from stepwrit.wire import CREDENTIAL_MAX_S, STEP_TOKEN_MAX_S
from stepwrit.wire_chain import GRANT_S
from stepwrit_broker.approvals.oidc import OidcSignIns
from stepwrit_broker.attest.person import OidcPeople
from stepwrit_broker.attest.signals import OidcSignals
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.flows.advice import AnswerRecorder
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.refusals import RefusalRecorder
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.keys.grants import OwnGrants
from stepwrit_broker.keys.keyring import Keyring, Keys
from stepwrit_broker.keys.sealing import AesSealer
from stepwrit_broker.keys.tokens import OwnCredentials, OwnStepTokens
from stepwrit_broker.keys.union import StatedKeys, UnionRing
from stepwrit_broker.kinds.action_token import ActionToken
from stepwrit_broker.kinds.id_jag import IdJag
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock, Entropy, KindPort
from stepwrit_broker.ports_approval import Notice, SignIns
from stepwrit_broker.ports_ended import Ended
from stepwrit_broker.ports_fleet import KeyUse
from stepwrit_broker.ports_signal import Signals
from stepwrit_broker.wiring.backing import Backing
from stepwrit_broker.wiring.ending import Endings
from stepwrit_broker.wiring.feeding import Newsroom
from stepwrit_broker.wiring.notifying import Notifying
from stepwrit_broker.wiring.settings import BrokerSettings
from stepwrit_broker.wiring.waiting import Bells, Decisions, Expiries, Told


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a house is built of. published: is told each new key's id and thumbprint."""

    settings: BrokerSettings
    clock: Clock
    entropy: Entropy
    metrics: Metrics
    stack: AsyncExitStack
    backing: Backing
    live: Live
    published: Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Housed:
    """A house and its neighbours."""

    house: House
    own_keys: tuple[Keyring, Keyring, Keyring]
    others: StatedKeys
    rings: tuple[Keys, Keys, Keys]
    refusals: RefusalRecorder
    answers: AnswerRecorder
    expiries: Expiries
    endings: Endings
    bells: Bells
    newsroom: Newsroom
    notifying: Notifying
    sign_ins: SignIns | None
    signals: Signals | None

    def heed(self, backing: Backing, *, marked: asyncio.Event, ruled: asyncio.Event) -> None:
        """From now on whoever is to hear of ends and marks does."""

        def ended(told: Sequence[Ended]) -> None:
            self.endings.tell(told)
            self.newsroom.ended(told)

        def changed() -> None:
            self.newsroom.ruled()
            ruled.set()

        backing.heed(ended=ended, marked=marked.set, ruled=changed)

    def let_go(self) -> None:
        """Of all who are held: this process ends."""
        self.bells.close()
        self.endings.close()
        self.newsroom.close()


def _newsroom(parts: Parts) -> Newsroom:
    store = parts.backing.store
    made = Newsroom(store.marks, lambda: store.knows_marks)
    parts.metrics.watch_followers(lambda: made.followers)
    return made


def housed(parts: Parts) -> Housed:
    """Everything that the verbs need, on this backing."""
    settings, store, secret = parts.settings, parts.backing.store, parts.backing.secret
    own, others = _own_keys(parts), StatedKeys()
    rings: tuple[Keys, Keys, Keys] = own
    if parts.backing.board is not None:
        st, at, gr = own
        rings = (UnionRing(st, others, "st"), UnionRing(at, others, "at"), UnionRing(gr, others, "gr"))
    http = httpx2.AsyncClient(follow_redirects=False)
    parts.stack.push_async_callback(http.aclose)
    people = OidcPeople(settings.oidc, http)
    refusals, expiries = _refusals(parts), Expiries()
    endings, bells = Endings(parts.entropy.bytes(16).hex()), Bells()
    notifying = _notifying(parts)
    credentials = OwnCredentials(rings[1], issuer=settings.issuer)
    made: tuple[KindPort, ...] = (ActionToken(credentials), IdJag(OwnGrants(rings[2])))
    channels: list[Callable[[Notice], None]] = [
        Decisions(parts.metrics, parts.clock),
        expiries,
        *notifying.channels,
    ]
    house = House(
        issuer=settings.issuer,
        trust_domain=settings.trust_domain,
        clock=parts.clock,
        entropy=parts.entropy,
        store=store,
        settings=parts.live,
        step_tokens=OwnStepTokens(rings[0], issuer=settings.issuer, trust_domain=settings.trust_domain),
        credentials=credentials,
        kinds={each.name: each for each in made},
        people=people,
        pepper=secret,
        refusals=refusals,
        approvals=store.approvals,
        sealer=AesSealer(secret, parts.entropy),
        notices=Told(parts.metrics.approval, channels),
        bell=bells,
        ends=endings,
        shards=store.shards,
    )
    return Housed(
        house=house,
        own_keys=own,
        others=others,
        rings=rings,
        refusals=refusals,
        answers=AnswerRecorder(store=store, clock=parts.clock, entropy=parts.entropy),
        expiries=expiries,
        endings=endings,
        bells=bells,
        newsroom=_newsroom(parts),
        notifying=notifying,
        sign_ins=_sign_ins(parts, http),
        signals=OidcSignals(settings.transmitters, people) if settings.transmitters else None,
    )


def _own_keys(parts: Parts) -> tuple[Keyring, Keyring, Keyring]:
    """Where other brokers verify too, none signs before they know it."""

    def ring(use: KeyUse, longest_s: float) -> Keyring:
        return Keyring(
            use,
            now=parts.clock.now(),
            longest_s=longest_s,
            published=parts.published,
            held=parts.backing.board is not None,
        )

    return ring("st", STEP_TOKEN_MAX_S), ring("at", CREDENTIAL_MAX_S), ring("gr", GRANT_S)


def _sign_ins(parts: Parts, http: httpx2.AsyncClient) -> SignIns | None:
    provider = parts.settings.sign_in
    return None if provider is None else OidcSignIns(provider, http, parts.clock, parts.entropy)


def _notifying(parts: Parts) -> Notifying:
    return Notifying(
        parts.settings.hooks,
        parts.settings.mail,
        registry=lambda: parts.live.now_in_force().registry,
        clock=parts.clock,
        metrics=parts.metrics,
        stack=parts.stack,
    )


def _refusals(parts: Parts) -> RefusalRecorder:
    def refused(verb: str, code: str, rule: str, tool: str, ref: str) -> None:  # noqa: ARG001  the log has it
        parts.metrics.refused(verb, code, rule, tool if _is_registered(parts.live, tool) else "")

    return RefusalRecorder(store=parts.backing.store, clock=parts.clock, entropy=parts.entropy, heard=refused)


def _is_registered(live: Live, tool: str) -> bool:
    """Labels are bounded by the registry, not by what callers write."""
    server, _, name = tool.partition("/")
    try:
        entry = live.now_in_force().registry.server(server)
    except Unavailable:
        return False
    return entry is not None and name in entry.tools
