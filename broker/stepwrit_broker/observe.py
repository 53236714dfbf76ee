"""Names of metrics and log fields, in one place; labels are bounded by what the operator registered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stepwrit_broker.core.workload import Workload

STAGES: Final = ("attest", "place", "decide", "reserve", "mint", "check", "deliver")
REPLAYS: Final = ("repeat_same_call", "lost_reply", "replay_foreign", "second_key")
TOOLS_MAX: Final = 2_000
WORKLOADS_MAX: Final = 2_000
SVID_EVERY_S: Final = 2.0
UNTOLD_MAX: Final = 100
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_PERSON_BUCKETS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)


class StageTimer:
    """Times the stages of one issuance; `mark` ends the stage that runs."""

    __slots__ = ("_began", "_done", "_seen")

    def __init__(self, seen: Callable[[str, float], None]) -> None:
        self._seen, self._began, self._done = seen, time.perf_counter(), 0

    @property
    def running(self) -> str:
        """The stage that runs now; at a refusal, the one that refused."""
        return STAGES[min(self._done, len(STAGES) - 1)]

    def mark(self, stage: str) -> None:
        """The stage ends here."""
        now = time.perf_counter()
        self._seen(stage, now - self._began)
        self._began, self._done = now, STAGES.index(stage) + 1


class Metrics:
    """The broker's Prometheus metrics. One instance per broker, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "stepwrit_requests",
            "Requests of workloads by verb, outcome and code",
            ("verb", "outcome", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "stepwrit_request_seconds",
            "Time from request to answer",
            ("verb",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "stepwrit_stage_seconds",
            "Time per stage of an issuance",
            ("stage",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._opened = Counter(
            "stepwrit_steps_opened", "Steps opened by origin", ("origin",), registry=self.registry
        )
        self._closed = Counter(
            "stepwrit_steps_closed", "Steps closed by final state", ("state",), registry=self.registry
        )
        self._issued = Counter(
            "stepwrit_credentials_issued",
            "Credentials issued by tool, origin and audience",
            ("tool", "origin", "audience"),
            registry=self.registry,
        )
        self._self = Counter(
            "stepwrit_self_grants",
            "Steps of tools that are their own resource",
            ("tool", "origin"),
            registry=self.registry,
        )
        self._redeemed = Counter(
            "stepwrit_credentials_redeemed",
            "Credentials redeemed by tool and origin",
            ("tool", "origin"),
            registry=self.registry,
        )
        self._revoked = Counter(
            "stepwrit_credentials_ended",
            "Credentials whose step was closed or revoked",
            registry=self.registry,
        )
        self._refused = Counter(
            "stepwrit_refusals",
            "Refusals of attested callers by verb, code and registered tool",
            ("verb", "code", "tool"),
            registry=self.registry,
        )
        self._advised = Counter(
            "stepwrit_questions", "Questions for advice by answer", ("answer",), registry=self.registry
        )
        self._stage_refused = Counter(
            "stepwrit_stage_refusals",
            "Issuances refused, by the stage that refused",
            ("stage", "code"),
            registry=self.registry,
        )
        self._replays = Counter(
            "stepwrit_replays",
            "Replays by reason; replay_foreign and second_key are attacks",
            ("reason",),
            registry=self.registry,
        )
        self._of_persons()
        self._of_others()
        self._marks = Counter(
            "stepwrit_marks", "Marks set or lifted by verb", ("verb",), registry=self.registry
        )
        self._handshakes = Counter(
            "stepwrit_handshakes_refused",
            "TLS handshakes that failed",
            ("listener", "reason"),
            registry=self.registry,
        )
        self._unattested = Counter(
            "stepwrit_unattested", "Requests whose caller was not attested", ("rule",), registry=self.registry
        )
        self._forwarded = Counter(
            "stepwrit_forwarded_ignored",
            "Client certificates in headers, from others than the configured proxy",
            ("listener", "header"),
            registry=self.registry,
        )
        self._caller_svid = Gauge(
            "stepwrit_caller_svid_seconds_left",
            "Time left on a caller's SVID when last seen",
            ("workload",),
            registry=self.registry,
        )
        self.own_svid = Gauge(
            "stepwrit_svid_seconds_left", "Time left on the broker's own SVID", registry=self.registry
        )
        self.identity_state = Gauge(
            "stepwrit_identity_state",
            "1 for the state that a stream of the Workload API is in",
            ("stream", "state"),
            registry=self.registry,
        )
        self.ledger_entries = Gauge(
            "stepwrit_ledger_entries", "Entries of the ledger", registry=self.registry
        )
        self.ledger_signed = Gauge(
            "stepwrit_ledger_signed_entries", "Entries under the latest checkpoint", registry=self.registry
        )
        self.ledger_bytes = Gauge(
            "stepwrit_ledger_bytes", "About what the ledger's entries take", registry=self.registry
        )
        self._file_good = Gauge(
            "stepwrit_file_good",
            "1 when the file on disk could be applied",
            ("kind",),
            registry=self.registry,
        )
        self.store_bytes = Gauge(
            "stepwrit_store_bytes", "Size of the database, ledger included", registry=self.registry
        )
        self.headroom = Gauge(
            "stepwrit_disk_headroom_bytes", "Free bytes above the reserve", registry=self.registry
        )
        self.standing = Gauge("stepwrit_marks_standing", "Marks in force", registry=self.registry)
        self.versions = Gauge(
            "stepwrit_version_in_force", "Version number in force", ("kind",), registry=self.registry
        )
        self.reaped = Counter(
            "stepwrit_reaped", "What the reaper ended or purged", ("what",), registry=self.registry
        )
        self._polls = Counter(
            "stepwrit_federation_polls",
            "Polls of bundle endpoints by trust domain and outcome",
            ("trust_domain", "outcome"),
            registry=self.registry,
        )
        self._bundle_age = Gauge(
            "stepwrit_federation_bundle_age_seconds",
            "Since the bundle endpoint last confirmed what is held",
            ("trust_domain",),
            registry=self.registry,
        )
        self._bundle_serves = Gauge(
            "stepwrit_federation_bundle_serves",
            "1 while callers of the trust domain can be attested by the bundle that is held",
            ("trust_domain",),
            registry=self.registry,
        )
        self._opa = Histogram(
            "stepwrit_opa_seconds", "Time of a question to OPA", buckets=_BUCKETS, registry=self.registry
        )
        self._opa_failed = Counter(
            "stepwrit_opa_failures", "Questions to OPA without an answer", ("reason",), registry=self.registry
        )
        self._opa_open = Gauge(
            "stepwrit_opa_breaker_open", "1 while OPA is not asked", registry=self.registry
        )
        self._shadowed = Counter(
            "stepwrit_policy_shadow_decisions",
            "Decisions that a shadow policy was asked too, by what each answered",
            ("live", "shadow"),
            registry=self.registry,
        )
        self._shadow_disagreed = Counter(
            "stepwrit_policy_shadow_disagreements",
            "Decisions that a shadow policy would have changed, by effect and registered tool",
            ("effect", "tool"),
            registry=self.registry,
        )
        self._shadow_errors = Counter(
            "stepwrit_policy_shadow_errors",
            "Decisions without an answer of the shadow policy",
            ("reason",),
            registry=self.registry,
        )
        self._shadow_dropped = Counter(
            "stepwrit_policy_shadow_dropped",
            "Decisions that a shadow policy was not asked because its queue was full",
            registry=self.registry,
        )
        self._shadow_running = Gauge(
            "stepwrit_policy_shadow_running", "1 while a shadow policy runs", registry=self.registry
        )
        for reason in REPLAYS:
            self._replays.labels(reason)
        self._children: dict[tuple[str, ...], Counter] = {}
        self._untold: dict[str, int] = {}
        self._svids: dict[str, tuple[Gauge, float]] = {}
        self._tools: set[str] = set()
        self._verb_seconds: dict[str, Histogram] = {}
        self._stage_children = {stage: self._stages.labels(stage) for stage in STAGES}

    def watch_followers(self, count: Callable[[], int]) -> None:
        """How many follow the feed of revocations, whenever it is asked for."""
        says = "Who follows the feed of revocations here"
        Gauge("stepwrit_feed_followers", says, registry=self.registry).set_function(count)

    def _of_witnesses(self) -> None:
        self._witnessed = Gauge(
            "stepwrit_ledger_witnessed_entries",
            "Entries under the published checkpoint; with witnesses, the newest with its quorum",
            registry=self.registry,
        )
        self._witnessed_age = Gauge(
            "stepwrit_ledger_witnessed_age_seconds",
            "Since a quorum of witnesses last cosigned; 0 without witnesses",
            registry=self.registry,
        )
        self._contradicted = Gauge(
            "stepwrit_ledger_contradicted",
            "1 while a witness has seen another history of this ledger",
            registry=self.registry,
        )
        self._witness_good = Gauge(
            "stepwrit_ledger_witness_good",
            "1 while the witness cosigns",
            ("witness",),
            registry=self.registry,
        )
        self._witness_asked = Counter(
            "stepwrit_ledger_witness_requests",
            "Requests for a cosignature by witness and outcome",
            ("witness", "outcome"),
            registry=self.registry,
        )

    def witnessed(self, size: int, age_s: float, contradicted: bool) -> None:
        """How far witnesses have followed, and whether one of them objects."""
        self._witnessed.set(size)
        self._witnessed_age.set(round(age_s, 1))
        self._contradicted.set(contradicted)

    def witness_heard(self, witness: str, good: bool) -> None:
        """Whether a witness, by its configured name, cosigns."""
        self._witness_good.labels(witness).set(good)

    def witness_asked(self, witness: str, outcome: str) -> None:
        """A witness `cosigned`, `failed` to, or `contradicted` us."""
        self._witness_asked.labels(witness, outcome).inc()

    def _of_others(self) -> None:
        """What comes of events, and what crosses to and from other trust domains."""
        self._of_witnesses()
        self._caused = Counter(
            "stepwrit_intents_caused",
            "Intents that a step of another transaction caused, by the trigger that passed its event on",
            ("trigger",),
            registry=self.registry,
        )
        self._crossed = Counter(
            "stepwrit_grants_crossed",
            "Grants to and from other trust domains' brokers, by the peer's registered name",
            ("direction", "peer", "origin"),
            registry=self.registry,
        )
        self._signals = Counter(
            "stepwrit_signals",
            "Security events of identity providers by event and outcome",
            ("event", "outcome"),
            registry=self.registry,
        )
        self._peer_keys = Counter(
            "stepwrit_peer_keys_fetched",
            "Fetches of a peer's keys by outcome",
            ("peer", "outcome"),
            registry=self.registry,
        )

    def _of_persons(self) -> None:
        self._approvals = Counter(
            "stepwrit_approvals", "Approvals by what happened to them", ("event",), registry=self.registry
        )
        self._decided = Histogram(
            "stepwrit_approval_decision_seconds",
            "From asking for an approval to its end by persons, operators or time",
            ("outcome",),
            buckets=_PERSON_BUCKETS,
            registry=self.registry,
        )
        self._notices = Counter(
            "stepwrit_notices",
            "Notices of approvals by channel and outcome",
            ("channel", "outcome"),
            registry=self.registry,
        )
        self.approvals_waiting = Gauge(
            "stepwrit_approvals_waiting", "Approvals that wait for signatures", registry=self.registry
        )
        self.approvals_oldest = Gauge(
            "stepwrit_approvals_oldest_seconds",
            "How long the oldest of them has waited; 0 for none",
            registry=self.registry,
        )

    def stages(self) -> StageTimer:
        """A timer for one issuance."""
        return StageTimer(self._stage)

    def _stage(self, stage: str, seconds: float) -> None:
        self._stage_children[stage].observe(seconds)

    def request(self, verb: str, outcome: str, code: str, seconds: float) -> None:
        """One answered request. `code` is empty on success."""
        self._count("request", self._requests, verb, outcome, code)
        timer = self._verb_seconds.get(verb)
        if timer is None:
            timer = self._verb_seconds[verb] = self._seconds.labels(verb)
        timer.observe(seconds)

    def _count(self, name: str, counter: Counter, *labels: str) -> None:
        """Count one; the labelled child is looked up once. What labels may be is bounded by who calls."""
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[(name, *labels)] = counter.labels(*labels)
        child.inc()

    def _tool_label(self, tool: str) -> str:
        if tool not in self._tools and len(self._tools) >= TOOLS_MAX:
            return "other"
        self._tools.add(tool)
        return tool

    def opened(self, origin: str) -> None:
        """A step or a root was opened."""
        self._count("opened", self._opened, origin)

    def caused(self, trigger: str) -> None:
        """A trigger, by its registered name, passed on the event of a step."""
        self._count("caused", self._caused, trigger)

    def crossed(self, direction: str, peer: str, origin: str) -> None:
        """A grant went `out` to a peer's broker, or one of its came `in`."""
        self._count("crossed", self._crossed, direction, peer, origin)

    def signal(self, event: str, outcome: str) -> None:
        """An event was `acted` upon or only `noted`, or refused by the code of RFC 8935."""
        self._count("signal", self._signals, event, outcome)

    def peer_keys(self, peer: str, good: bool) -> None:
        """A peer's keys were fetched, or could not be."""
        self._count("peer_keys", self._peer_keys, peer, "ok" if good else "failed")

    def advised(self, answer: str) -> None:
        """A question was answered: `permit`, or the code of why not."""
        self._count("advised", self._advised, answer)

    def closed(self, state: str, revoked: int) -> None:
        """A step was closed; `revoked` of its credentials ended with it."""
        self._count("closed", self._closed, state)
        self._revoked.inc(revoked)

    def issued(self, tool: str, origin: str, audience: str) -> None:
        """A credential was delivered."""
        self._count("issued", self._issued, self._tool_label(tool), origin, self._tool_label(audience))

    def self_granted(self, tool: str, origin: str) -> None:
        """A tool that is its own resource accepted and redeemed."""
        self._count("self", self._self, self._tool_label(tool), origin)

    def redeemed(self, tool: str, origin: str) -> None:
        """A credential was spent."""
        self._count("redeemed", self._redeemed, self._tool_label(tool), origin)

    def refused(self, verb: str, code: str, rule: str, tool: str) -> None:
        """An attested caller was refused; replays are told apart. `tool`: a registered one, or empty."""
        self._refused.labels(verb, code, self._tool_label(tool)).inc()
        if rule in REPLAYS:
            self._replays.labels(rule).inc()

    def stage_refused(self, stage: str, code: str) -> None:
        """An issuance ended in this stage."""
        self._stage_refused.labels(stage, code).inc()

    def approval(self, event: str) -> None:
        """An approval was asked for, signed, given, denied, cancelled, reminded of."""
        self._approvals.labels(event).inc()

    def noticed(self, channel: str, outcome: str) -> None:
        """A notice was `sent`, `failed`, `dropped` or too `late`. channel: the operator's name."""
        self._notices.labels(channel, outcome).inc()

    def decided(self, outcome: str, seconds: float) -> None:
        """An approval was given, denied or cancelled, or expired, so long after it was asked for."""
        self._decided.labels(outcome).observe(max(0.0, seconds))

    def marked(self, verb: str) -> None:
        """A mark was set or lifted."""
        self._marks.labels(verb).inc()

    def handshake_refused(self, listener: str, reason: str) -> None:
        """A TLS handshake failed."""
        self._handshakes.labels(listener, reason).inc()
        self._tell(f"{listener} handshake: {reason}")

    def unattested(self, rule: str) -> None:
        """A request came whose caller could not be attested."""
        self._unattested.labels(rule).inc()
        self._tell(rule or "other")

    def forwarded_ignored(self, listener: str, header: str) -> None:
        """A certificate in a header counted for nothing. `header`: one of three names."""
        self._forwarded.labels(listener, header).inc()

    def _tell(self, what: str) -> None:
        if len(self._untold) < UNTOLD_MAX or what in self._untold:
            self._untold[what] = self._untold.get(what, 0) + 1

    def untold(self) -> dict[str, int]:
        """Unattested tries since the last call, by what was wrong: the ledger counts them in one entry."""
        told, self._untold = self._untold, {}
        return told

    def caller_seen(self, workload: Workload, now: float) -> None:
        """How long the caller's SVID still lives; told at most every few seconds per workload."""
        known = self._svids.get(workload.id)
        if known is not None and now - known[1] < SVID_EVERY_S:
            return
        if known is None and len(self._svids) >= WORKLOADS_MAX:
            return
        gauge = self._caller_svid.labels(workload.id) if known is None else known[0]
        self._svids[workload.id] = gauge, now
        gauge.set(round(workload.expires_at - now, 1))

    def file_refused(self, kind: str) -> None:
        """A file could not be applied; what was in force stays."""
        self._file_good.labels(kind).set(0)

    def file_good(self, kind: str) -> None:
        """The file is good, and applied or unchanged."""
        self._file_good.labels(kind).set(1)

    def polled(self, trust_domain: str, outcome: str) -> None:
        """A bundle endpoint was asked. Both are the operator's words, or ours."""
        self._polls.labels(trust_domain, outcome).inc()

    def federated(self, trust_domain: str, age: float | None, *, serves: bool) -> None:
        """age: seconds since the last confirmation, None while there is no bundle."""
        if age is not None:
            self._bundle_age.labels(trust_domain).set(round(age, 1))
        self._bundle_serves.labels(trust_domain).set(1 if serves else 0)

    def opa_asked(self, outcome: str, seconds: float, *, is_open: bool) -> None:
        """OPA was asked. outcome: `ok`, or one of our words for what failed."""
        self._opa.observe(seconds)
        if outcome != "ok":
            self._opa_failed.labels(outcome).inc()
        self._opa_open.set(1 if is_open else 0)

    def shadowed(self, live: str, shadow: str) -> None:
        """A shadow policy was asked what the live one was asked."""
        self._count("shadowed", self._shadowed, live, shadow)

    def shadow_disagreed(self, effect: str, tool: str) -> None:
        """It would have changed something for who asked."""
        self._count("disagreed", self._shadow_disagreed, effect.replace(" ", "_"), self._tool_label(tool))

    def shadow_failed(self, why: str, count: int) -> None:
        """It gave no answer."""
        self._shadow_errors.labels(why).inc(count)

    def shadow_dropped(self) -> None:
        """It was not asked."""
        self._shadow_dropped.inc()

    def shadow_runs(self, *, runs: bool) -> None:
        """Whether there is one."""
        self._shadow_running.set(1 if runs else 0)

    def text(self) -> bytes:
        """The Prometheus exposition."""
        return generate_latest(self.registry)
