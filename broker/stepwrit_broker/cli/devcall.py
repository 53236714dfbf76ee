"""`stepwrit dev call`: one person, one agent, one guarded call, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp import Client
from mcp_types import CallToolResult, TextContent
from rich.text import Text

from stepwrit import _reply, shape
from stepwrit.agent import Broker, Intent, bound_nonce
from stepwrit.errors import RefusedError, StepwritError, describe
from stepwrit.wire import META_REFUSAL, ApprovalAsked, CeilingSpec, Refusal
from stepwrit_broker.cli.devtools import ask_dev, environment
from stepwrit_broker.cli.failures import NoBroker, fail
from stepwrit_broker.cli.locate import DevState
from stepwrit_broker.cli.output import NO, YES, err, harmless, out, say
from stepwrit_broker.cli.render import lineage_tree
from stepwrit_broker.cli.scaffold import ToolInfo
from stepwrit_broker.cli.scaffolding import list_tools, root_of

AGENT: Final = "agent/dev"
TTL_S: Final = 900
_PAGE_KEYS: Final = ("impact", "plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to call, where, for whom. impact: register the tool so first; None leaves it. wait_s: for a
    signature.
    """

    server: str
    tool: str
    args: dict[str, object]
    url: str
    person: str
    impact: str | None
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of it. txn and ref: empty when not even the intent was opened."""

    txn: str = ""
    ref: str = ""
    text: str = ""
    is_error: bool = False
    structured: object = None
    refusal: Refusal | None = None

    @property
    def failed(self) -> bool:
        """Whether the tool did not do what was asked."""
        return self.is_error or self.refusal is not None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        refusal = None if self.refusal is None else shape.write(self.refusal)
        return {
            "txn": self.txn,
            "ref": self.ref,
            "is_error": self.is_error,
            "text": self.text,
            "structured": self.structured,
            "refusal": refusal,
        }


async def play(state: DevState, wanted: Wanted, known: Mapping[str, Any]) -> Played:
    """Register what is new, sign in, open the intent, call. Raises NoBroker, CommandFailed, StepwritError."""
    await _register(state, wanted, known)
    ceiling = (f"{wanted.server}/*",)
    purpose = f"stepwrit dev call {wanted.server} {wanted.tool}"
    async with Broker.from_env(environment(state, AGENT)) as broker:
        exp = int(broker.now()) + TTL_S
        nonce = bound_nonce(await broker.ready(), CeilingSpec(tools=ceiling), purpose, exp)
        minted = ask_dev(state, "mint", {"sub": wanted.person, "client_id": state.client_id, "nonce": nonce})
        try:
            async with broker.intent(minted["id_token"], purpose=purpose, tools=ceiling, exp=exp) as intent:
                return await _called(intent, wanted)
        except RefusedError as no:
            return Played(refusal=no.refusal, ref=no.refusal.ref or "")


async def _called(intent: Intent, wanted: Wanted) -> Played:
    try:
        async with Client(wanted.url) as client:
            intent.guard(
                client, server=wanted.server, wait_for_approval=wanted.wait_s, on_approval=_show_page
            )
            result = await client.call_tool(wanted.tool, wanted.args)
    except Exception as lost:  # noqa: BLE001  the MCP client raises groups of whatever its transport met
        raise _as_ours(lost, wanted) from None
    return Played(
        txn=intent.txn,
        ref=intent.ref,
        text="\n".join(each.text for each in result.content if isinstance(each, TextContent)),
        is_error=bool(result.is_error),
        structured=result.structured_content,
        refusal=_refusal(result),
    )


async def _show_page(asked: ApprovalAsked) -> None:
    """On stderr, so that the answer alone is on stdout."""
    line = Text(f"waits for a person to sign at {harmless(asked.url)}  ({asked.id})", style="bold yellow")
    err().print(line, soft_wrap=True)


def _as_ours(lost: Exception, wanted: Wanted) -> StepwritError:
    return (
        lost
        if isinstance(lost, StepwritError)
        else NoBroker(f"the MCP server at {wanted.url} did not answer the call ({root_of(lost)})")
    )


def _refusal(result: CallToolResult) -> Refusal | None:
    said = (result.meta or {}).get(META_REFUSAL)
    if not isinstance(said, Mapping):
        return None
    try:
        return _reply.answer(Refusal, cast("Mapping[str, object]", said))
    except _reply.Garbled:
        return None


async def _register(state: DevState, wanted: Wanted, known: Mapping[str, Any]) -> None:
    """Tell the development broker of a server or a tool that it does not know; the rest stays."""
    tools: Mapping[str, Mapping[str, Any]] = known.get("tools") or {}
    is_known = wanted.tool in tools and known.get("url") == wanted.url
    if is_known and wanted.impact in (None, tools[wanted.tool].get("impact")):
        return
    listed = await _listed(wanted)
    names = {each.name for each in listed}
    if wanted.tool not in names:
        fail(
            f"{wanted.server} at {wanted.url} has no tool {wanted.tool}; "
            f"it has {', '.join(sorted(names)) or 'none'}"
        )
    said: list[dict[str, object]] = [
        {"name": name, **{key: tools[name][key] for key in _PAGE_KEYS if key in tools.get(name, {})}}
        for name in sorted(names)
    ]
    for each in said:
        if each["name"] == wanted.tool and wanted.impact is not None:
            each["impact"] = wanted.impact
    ask_dev(state, "register", {"name": wanted.server, "url": wanted.url, "tools": said})


async def _listed(wanted: Wanted) -> list[ToolInfo]:
    try:
        return await list_tools(wanted.url)
    except NoBroker as lost:
        start = f"stepwrit dev run --as mcp-server/{wanted.server} -- CMD"
        raise NoBroker(f"{lost}; start it with `{start}`, or say --url URL") from None


def show(played: Played, story: Mapping[str, Any] | None) -> None:
    """The result or the refusal, then the lineage."""
    if played.refusal is not None:
        if played.refusal.approval is not None:
            hint = (
                "a person must sign this first. This call did not wait so long, so its step has ended: "
                "say --wait 300, and sign while it waits"
            )
            out().print(Text(f"{NO} {hint}", style="bold yellow"), soft_wrap=True)
        out().print(Text(harmless(f"{NO} {describe(played.refusal)}"), style="bold red"), soft_wrap=True)
    elif played.is_error:
        out().print(
            Text(harmless(f"{NO} the tool failed: {played.text}", keep="\n"), style="bold red"),
            soft_wrap=True,
        )
    else:
        out().print(f"[bold green]{YES}[/] ", end="")
        say(played.text)
    if story is not None:
        out().print()
        out().print(lineage_tree(story))
