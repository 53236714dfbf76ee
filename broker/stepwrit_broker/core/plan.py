"""A tool's plan: which requests it may make to carry out its action. Templates are matched strictly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from stepwrit.wire import PlanItem
from stepwrit_broker.core.errors import Refused

# what a server behind the resource might take for a separator or an end
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]")


def line_for(plan: Sequence[PlanItem], method: str, url: str, audience: str) -> int:
    """The first line of the plan that this request fits, by its index.

    url: absolute and normalised. audience: where the credential is to be used. Raises Refused(`plan`).
    """
    for at, item in enumerate(plan):
        if item.at == audience and item.method == method and _fits(item, url):
            return at
    raise Refused(
        "plan",
        f"{method} at {audience} is not in the tool's plan; anything outside it is a step of its own",
        rule="registry plan",
        who_can_change_it="the operator (registry.yaml)",
    )


def _fits(item: PlanItem, url: str) -> bool:
    have, base = urlsplit(url), urlsplit(item.at)
    if (have.scheme, have.netloc) != (base.scheme, base.netloc):
        return False
    names = {name for name, _ in parse_qsl(have.query, keep_blank_values=True)}
    if (have.query and not names) or ";" in have.query:  # to some servers `;` begins another parameter
        return False
    return names <= set(item.query) and _path_fits(base.path.rstrip("/") + item.path, have.path)


def _path_fits(template: str, path: str) -> bool:
    wanted, had = template.split("/"), path.split("/")
    if len(wanted) != len(had):
        return False
    return all(_segment_fits(want, got) for want, got in zip(wanted, had, strict=True))


def _segment_fits(want: str, got: str) -> bool:
    """`{name}` takes one decoded segment: not empty, UTF-8, no slash or control inside, no dot segment."""
    if not (want.startswith("{") and want.endswith("}")):
        return want == got
    try:
        plain = unquote(got, errors="strict")
    except UnicodeDecodeError:
        return False
    return plain not in ("", ".", "..") and _FORBIDDEN.search(plain) is None
