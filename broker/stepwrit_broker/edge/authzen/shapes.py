"""AuthZEN's requests, read as the specification says: unknown members are ignored, known ones have a type.

Source: OpenID AuthZEN Authorization API 1.0 sections 5 to 7 and 10.1,
https://openid.net/specs/authorization-api-1_0.html. No member twice (section 11.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast

from stepwrit.digest import DigestError, parse_json
from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.edge.http import Request
from stepwrit_broker.flows.advice import Semantic
from stepwrit_broker.flows.requesting import Denial

EVALUATIONS_MAX: Final = 50
TEXT_MAX: Final = 2_100  # a SPIFFE ID is at most 2048 bytes
_SEMANTICS: Final[dict[str, Semantic]] = {
    "execute_all": "execute_all",
    "deny_on_first_deny": "deny_on_first_deny",
    "permit_on_first_permit": "permit_on_first_permit",
}
_NEEDED: Final = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}
_OF_CREDENTIAL: Final = {"audience": "resource", "method": "method", "url": "url"}
_Json = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Several questions. What is wrong with one of them is its own answer (section 7.2.2)."""

    asked: tuple[Asked | Malformed, ...]
    semantic: Semantic


def body_of(request: Request) -> _Json:
    """The JSON object of a request. Raises Malformed, also for another content type (section 10.1)."""
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Malformed("invalid_request", "the body must be application/json")
    try:
        value = parse_json(request.body)
    except DigestError as bad:
        raise Malformed("invalid_request", f"the body is not JSON of one meaning: {bad}") from bad
    if not isinstance(value, dict):
        raise Malformed("invalid_request", "the body must be a JSON object")
    return cast("_Json", value)


def one(body: _Json) -> Asked:
    """A single evaluation (section 6.1). Raises Malformed."""
    return _asked({name: _object(body, name) for name in (*_NEEDED, "context")})


def one_or_many(body: _Json) -> Asked | Batch:
    """Several evaluations, or one where `evaluations` is absent or empty (section 7.1). Raises Malformed."""
    items = body.get("evaluations", [])
    if not isinstance(items, list):
        raise Malformed("invalid_request", "evaluations: must be an array")
    if not items:
        return one(body)
    if len(items) > EVALUATIONS_MAX:
        raise Malformed("invalid_request", f"evaluations: at most {EVALUATIONS_MAX}")
    semantic = _semantic(body)
    defaults = {name: _object(body, name) for name in (*_NEEDED, "context")}
    return Batch(asked=tuple(_of_many(each, defaults) for each in items), semantic=semantic)


def _semantic(body: _Json) -> Semantic:
    """Section 7.1.2.1. Options that are not known are ignored."""
    said = (_object(body, "options") or {}).get("evaluations_semantic", "execute_all")
    found = _SEMANTICS.get(said) if isinstance(said, str) else None
    if found is None:
        raise Malformed("invalid_request", f"options.evaluations_semantic: one of {', '.join(_SEMANTICS)}")
    return found


def _of_many(item: object, defaults: Mapping[str, _Json | None]) -> Asked | Malformed:
    try:
        if not isinstance(item, dict):
            raise Malformed("invalid_request", "an evaluation must be an object")
        own = cast("_Json", item)
        return _asked({name: _merged(name, _object(own, name), defaults[name]) for name in defaults})
    except Malformed as bad:
        return bad


def _merged(name: str, own: _Json | None, default: _Json | None) -> _Json | None:
    """The evaluation's own value takes the default's place as a whole, but for required names it lacks."""
    if own is None or default is None or name == "context":
        return default if own is None else own
    return {**{each: default[each] for each in _NEEDED[name] if each in default}, **own}


def _object(body: _Json, name: str) -> _Json | None:
    value = body.get(name)
    if value is None and name not in body:
        return None
    if not isinstance(value, dict):
        raise Malformed("invalid_request", f"{name}: must be an object")
    return cast("_Json", value)


def _asked(said: Mapping[str, _Json | None]) -> Asked:
    found = {name: _names(name, said[name]) for name in _NEEDED}
    properties = _object(said["action"] or {}, "properties") or {}
    context = said["context"] or {}
    return Asked(
        subject_type=found["subject"]["type"],
        subject=found["subject"]["id"],
        action=found["action"]["name"],
        resource_type=found["resource"]["type"],
        resource=found["resource"]["id"],
        args=_object(properties, "args"),
        **{name: _optional(properties, said_as) for name, said_as in _OF_CREDENTIAL.items()},
        deferred=_flag(properties),
        step=None if "step" not in context else _text(context, "step", "context"),
        approval=_approval(context),
        said={name: said[name] or {} for name in _NEEDED},
    )


def _approval(context: _Json) -> str | None:
    """ARAP section 7: a reference that says nothing to us is as none."""
    value = context.get("approval")
    named = cast("_Json", value).get("id") if isinstance(value, dict) else None
    return named if isinstance(named, str) and len(named) <= TEXT_MAX else None


def denial_of(body: _Json) -> Denial | None:
    """What an access request says of its denial (ARAP section 5.1). Raises Malformed; not for bundles."""
    if "items" in body:
        raise Malformed("invalid_request", "items: one request is for one step")
    said = _object(body, "denial")
    if said is None:
        return None
    return Denial(
        evaluation_id=_text(said, "evaluation_id", "denial") if "evaluation_id" in said else None,
        expires_at=_time(said) if "expires_at" in said else None,
        token=_text(said, "binding_token", "denial") if "binding_token" in said else None,
    )


def _time(said: _Json) -> int:
    try:
        return int(datetime.fromisoformat(_text(said, "expires_at", "denial")).timestamp())
    except (ValueError, OverflowError) as bad:
        raise Malformed("invalid_request", "denial.expires_at: must be an RFC 3339 time") from bad


def _names(name: str, value: _Json | None) -> dict[str, str]:
    if value is None:
        raise Malformed("invalid_request", f"{name} is missing")
    _object(value, "properties")
    return {each: _text(value, each, name) for each in _NEEDED[name]}


def _text(value: _Json, member: str, of: str) -> str:
    if member not in value:
        raise Malformed("invalid_request", f"{of}.{member} is missing")
    text = value[member]
    if not isinstance(text, str) or len(text) > TEXT_MAX:
        raise Malformed(
            "invalid_request", f"{of}.{member}: must be a string of at most {TEXT_MAX} characters"
        )
    return text


def _optional(properties: _Json, name: str) -> str | None:
    return _text(properties, name, "action.properties") if name in properties else None


def _flag(properties: _Json) -> bool:
    said = properties.get("deferred", False)
    if not isinstance(said, bool):
        raise Malformed("invalid_request", "action.properties.deferred: must be true or false")
    return said
