"""What a ledger entry says: one JSON object per hop, the same words everywhere. Pure.

Digests of arguments, requests and requesters are SHA-256(salt ‖ digest) with the transaction's salt, which is
kept beside the log and can be erased. No entry holds a token, a proof or an argument.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Literal

from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.step import Step, Upstream

SALT_BYTES = 16
MAX_BYTES = 65_535  # C2SP tlog-tiles: an entry's length is a uint16
EntryKind = Literal[
    "intent.opened", "step.opened", "step.accepted", "step.waiting", "step.resumed", "step.closed",
    "step.expired", "step.caused",
    "grant.issued", "grant.self", "grant.redeemed", "grant.expired",
    "approval.asked", "approval.signed", "approval.given", "approval.denied", "approval.cancelled",
    "approval.expired", "approval.used", "authenticator.proposed", "authenticator.approved",
    "authenticator.retired", "authenticator.invited",
    "refused", "refused.counted", "question.answered", "question.counted",
    "mark.set", "mark.lifted", "version.applied",
    "shadow.started", "shadow.resumed", "shadow.stopped", "policy.impact",
    "broker.started", "key.published", "log.adopted", "log.sealed", "txn.erased", "witness.contradicted",
]  # fmt: skip

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode
ToJson = Callable[[object], bytes]


def to_json(value: object) -> bytes:
    """Compact JSON with sorted members. An adapter may hand over a faster encoder of the same bytes."""
    return _encode(value).encode()


def salted(salt: bytes, digest: str) -> str:
    """SHA-256(salt ‖ digest) in hex; the empty string stays empty."""
    return hashlib.sha256(salt + digest.encode()).hexdigest() if digest else ""


def decision_digest(
    salt: bytes, document: Mapping[str, object], encoded: ToJson = to_json
) -> tuple[str, bytes]:
    """The salted digest under which a decision document is kept beside the log, and its bytes."""
    raw = encoded(document)
    return hashlib.sha256(salt + raw).hexdigest(), raw


def is_salted_digest(digest: str, salt: bytes, raw: bytes) -> bool:
    """Whether this is the digest of a document of these bytes: whoever cuts elsewhere has another salt."""
    return len(salt) == SALT_BYTES and hashlib.sha256(salt + raw).hexdigest() == digest


def encode(
    kind: EntryKind, ref: str, at: float, facts: Mapping[str, object], encoded: ToJson = to_json
) -> bytes:
    """The entry's bytes, as they are hashed into the tree; no fact stands in for its own four words.

    Raises ValueError beyond MAX_BYTES.
    """
    raw = encoded({**facts, "v": 1, "kind": kind, "ref": ref, "at": round(at, 6)})
    if len(raw) > MAX_BYTES:
        raise ValueError(f"ledger entry: {len(raw)} bytes, at most {MAX_BYTES}")
    return raw


def step_facts(step: Step, salt: bytes) -> dict[str, object]:
    """A step's own story, told once, when it opens."""
    intent, action = step.intent, step.action
    requester = intent.requester.opaque if intent.requester is not None else ""
    return {
        "step": step.id,
        "txn": step.txn,
        "tenant": step.tenant,
        "parent": step.parent,
        "depth": step.depth,
        "initiator": step.initiator,
        "performer": step.performer,
        "origin": step.origin,
        "requester": salted(salt, requester),
        "owner": intent.owner,
        "proof": intent.proof,
        "cause": intent.cause,
        "cause_txn": intent.cause_txn,
        "upstream": None if intent.upstream is None else _upstream(intent.upstream),
        "tool": action.tool if action else None,
        "impact": action.impact if action else None,
        "args": salted(salt, action.args) if action else None,
        "schema": action.schema if action else None,
        "ceiling": {"tools": sorted(step.ceiling.tools), "impact": step.ceiling.impact},
        "influence": step.influence,
        "deferred": step.deferred,
        "expires_at": round(step.expires_at, 3),
    }


def _upstream(upstream: Upstream) -> dict[str, object]:
    """What the issuer of the grant says of its own step stands under `claims`: its word, and no more."""
    said = {name: getattr(upstream, name) for name in ("step", "txn", "ref", "origin")}
    return {"issuer": upstream.issuer, "digest": upstream.digest, "claims": said}


def hop_facts(step: Step) -> dict[str, object]:
    """The few words that tie a later entry to its step."""
    tool = step.action.tool if step.action else None
    return {"step": step.id, "txn": step.txn, "tenant": step.tenant, "origin": step.origin, "tool": tool}


def grant_facts(grant: Grant, salt: bytes) -> dict[str, object]:
    """A grant's story, told once, when it is reserved."""
    return {
        "grant": grant.id,
        "kind_of_credential": grant.kind,
        "audience": grant.audience,
        "performer": grant.performer,
        "method": grant.method,
        "request": salted(salt, grant.request),
        "plan_line": grant.plan_line,
        "self": grant.is_self,
        "key": grant.jkt,
        "epoch": grant.epoch,
        "expires_at": round(grant.expires_at, 3),
    }


def mark_facts(mark: Mark) -> dict[str, object]:
    """A mark's story."""
    return {"target": mark.target, "verb": mark.verb, "reason": mark.reason, "by": mark.by}
