"""What a step's children may be: a set of tools and a highest impact class; it only ever narrows.

A tool is named `server/tool` by the registry's name of the server; a pattern is that, `server/*` or `*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stepwrit.wire import CeilingSpec, Impact
from stepwrit_broker.core.errors import Malformed

TOOLS_MAX = 256
_RANK: dict[str, int] = {"low": 0, "medium": 1, "high": 2}


def impact_within(impact: Impact, highest: Impact) -> bool:
    """Whether `impact` is not above `highest`."""
    return _RANK[impact] <= _RANK[highest]


def lower(one: Impact, other: Impact) -> Impact:
    """The lower of two impact classes."""
    return one if _RANK[one] <= _RANK[other] else other


def covers(pattern: str, tool: str) -> bool:
    """Whether `pattern` covers a tool or a narrower pattern."""
    if pattern in ("*", tool):
        return True
    return pattern.endswith("/*") and tool.startswith(pattern[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """No tools means: nothing may be started."""

    tools: frozenset[str]
    impact: Impact

    @staticmethod
    def of(spec: CeilingSpec) -> Ceiling:
        """From the wire. Raises Malformed beyond TOOLS_MAX patterns: they are compared pair by pair."""
        if len(spec.tools) > TOOLS_MAX:
            raise Malformed("invalid_request", f"ceiling: at most {TOOLS_MAX} tools")
        return Ceiling(tools=frozenset(spec.tools), impact=spec.impact)

    def spec(self) -> CeilingSpec:
        """To the wire."""
        return CeilingSpec(tools=tuple(sorted(self.tools)), impact=self.impact)

    def allows(self, tool: str, impact: Impact) -> bool:
        """Whether a child with this action lies in the ceiling."""
        return impact_within(impact, self.impact) and any(covers(pattern, tool) for pattern in self.tools)

    def within(self, other: Ceiling) -> bool:
        """Whether everything this allows, `other` allows too."""
        if not self.tools:
            return True
        inside = all(any(covers(wide, narrow) for wide in other.tools) for narrow in self.tools)
        return inside and impact_within(self.impact, other.impact)

    def meet(self, other: Ceiling) -> Ceiling:
        """The widest ceiling that lies within both."""
        return Ceiling(
            tools=frozenset(_kept(self.tools, other.tools)) | frozenset(_kept(other.tools, self.tools)),
            impact=lower(self.impact, other.impact),
        )


def _kept(these: Iterable[str], those: frozenset[str]) -> Iterable[str]:
    return (one for one in these if any(covers(wide, one) for wide in those))
