"""The digest of the schema under which a tool is served: what its clients, and the operator, were shown.

mcp hands a server to none of its extensions, so it is found behind the call's own handler. Where it cannot be
found, nothing is said, and the broker refuses the tools whose schema the registry pins.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any, Final, Protocol, runtime_checkable

from stepwrit.digest import DigestError, schema_digest

NESTED_MAX: Final = 32  # extensions round one handler
KEPT_MAX: Final = 1_024


@runtime_checkable
class Shows(Protocol):
    """A call's handler that knows its tool."""

    async def input_schema(self) -> Mapping[str, object] | None:
        """The tool's schema as it was registered."""
        ...

    def as_shown(self, schema: Mapping[str, object]) -> Mapping[str, object]:
        """The same as clients are shown it; costs milliseconds."""
        ...


class Served:
    """Digests by tool, made again where a tool's schema is another object than before."""

    def __init__(self) -> None:
        self._known: Final[dict[str, tuple[Mapping[str, object], str | None]]] = {}

    async def digest(self, call_next: object, tool: str) -> str | None:
        """The tool's digest; None where its schema cannot be had, or has none."""
        schema = await call_next.input_schema() if isinstance(call_next, Shows) else _schema(call_next, tool)
        if not isinstance(schema, Mapping):
            return None
        known = self._known.get(tool)
        if known is None or known[0] is not schema:
            if len(self._known) >= KEPT_MAX:
                self._known.clear()
            shown = call_next.as_shown(schema) if isinstance(call_next, Shows) else schema
            known = self._known[tool] = (schema, _digest(shown))
        return known[1]


def _digest(schema: Mapping[str, object]) -> str | None:
    try:
        return schema_digest(schema)
    except DigestError:
        return None


def _schema(call_next: object, tool: str) -> object:
    """Of an `MCPServer`'s own tool, as `tools/list` shows it."""
    manager: Any = getattr(_server_behind(call_next), "_tool_manager", None)
    found = None if manager is None else manager.get_tool(tool)
    return getattr(found, "parameters", None)


def _server_behind(call: object) -> object:
    """Whose method the innermost handler is."""
    for _ in range(NESTED_MAX):
        if not isinstance(call, FunctionType):
            return None
        cells = dict(zip(call.__code__.co_freevars, call.__closure__ or (), strict=True))
        if "handler" in cells:
            return getattr(cells["handler"].cell_contents, "__self__", None)
        call = cells["call_next"].cell_contents if "call_next" in cells else None
    return None
