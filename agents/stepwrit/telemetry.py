"""Metrics of the client's side, `stepwrit.client.*`, through the OpenTelemetry API alone.

Without an OpenTelemetry SDK in the process they cost next to nothing and go nowhere. They stand when the
broker is down, which is when they are needed. Attributes are closed words: no ids, no arguments, no names.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import metrics

METER: Final = "stepwrit"
_meter = metrics.get_meter(METER)

_requests = _meter.create_counter(
    "stepwrit.client.requests", unit="{verb}", description="verbs asked of the broker, by outcome and code"
)
_duration = _meter.create_histogram(
    "stepwrit.client.duration", unit="s", description="one verb with its retries, by outcome"
)
_retries = _meter.create_counter(
    "stepwrit.client.retries", unit="{request}", description="requests repeated, by verb"
)
_refusals = _meter.create_counter(
    "stepwrit.client.refusals", unit="{call}", description="tool calls refused in this process, by code"
)
_acts = _meter.create_counter(
    "stepwrit.client.acts", unit="{act}", description="what servers asked of this client, by act and code"
)
_svid_left = _meter.create_gauge(
    "stepwrit.client.svid.seconds_left", unit="s", description="until the X.509-SVID ends, at the last verb"
)


def verb_ended(verb: str, outcome: str, code: str, seconds: float, requests: int) -> None:
    """One verb has ended. outcome: ok, refused, unavailable, unknown, identity or cancelled."""
    _requests.add(1, {"verb": verb, "outcome": outcome, "code": code})
    _duration.record(max(seconds, 0.0), {"verb": verb, "outcome": outcome})
    if requests > 1:
        _retries.add(requests - 1, {"verb": verb})


def call_refused(code: str) -> None:
    """A tool call was refused in this process, whoever said no."""
    _refusals.add(1, {"code": code})


def act_done(act: str) -> None:
    """A server's question was answered."""
    _acts.add(1, {"act": act, "code": "ok"})


def act_refused(act: str, code: str) -> None:
    """What a server asked for was refused in this process."""
    _acts.add(1, {"act": act, "code": code})


def svid_seconds_left(seconds: float) -> None:
    """How long our SVID still holds."""
    _svid_left.set(seconds)
