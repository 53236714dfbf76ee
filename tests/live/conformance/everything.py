"""A server with all that the public MCP conformance suite calls; guarded, or as bare as the SDK makes it.

    python everything.py PORT [bare]

The names of tools, prompts and resources, and what they answer, are the suite's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import (
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    JSONRPCMessage,
    ListRootsRequest,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
AUDIO = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class Kept(EventStore):
    """Events of streams that were cut off, for whoever comes back."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        seen = int(last_event_id)
        if not 0 < seen <= len(self._events):
            return None
        stream = self._events[seen - 1][0]
        for number, (of, message) in enumerate(self._events[seen:], start=seen + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Said(BaseModel):
    response: str = Field(description="What the person says")


class Defaults(BaseModel):
    name: str = Field(default="John Doe")
    age: int = Field(default=30)
    score: float = Field(default=95.5)
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = Field(default=True)


def _titled(names: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"const": const, "title": title} for const, title in names.items()]


_VALUES = {"value1": "First Option", "value2": "Second Option", "value3": "Third Option"}


class Enums(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})  # noqa: N815
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled(_VALUES)})  # type: ignore[dict-item]  # noqa: N815
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        }
    )
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}}
    )
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _titled(_VALUES)}})  # type: ignore[dict-item]  # noqa: N815


def content(server: MCPServer) -> None:
    """Tools that only answer."""

    @server.tool()
    def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> list[ImageContent]:
        return [ImageContent(type="image", data=IMAGE, mime_type="image/png")]

    @server.tool()
    def test_audio_content() -> list[AudioContent]:
        return [AudioContent(type="audio", data=AUDIO, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[EmbeddedResource]:
        return [_embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]

    @server.tool()
    def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        return [
            TextContent(type="text", text="Multiple content types test:"),
            ImageContent(type="image", data=IMAGE, mime_type="image/png"),
            _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
        ]

    @server.tool()
    def test_error_handling() -> str:
        raise RuntimeError("This tool intentionally returns an error for testing")

    made = Tool.from_function(_any, name="json_schema_2020_12_tool", description="Keywords of 2020-12")
    server._tool_manager._tools[made.name] = made.model_copy(update={"parameters": JSON_SCHEMA})

    def headers(region: str = Field(json_schema_extra={"x-mcp-header": "Region"}), query: str = "") -> str:
        return f"{region} {query}"

    server.add_tool(headers, name="test_x_mcp_header")


def _any() -> str:
    return "ok"


def _embedded(uri: str, kind: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(
        type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=text)
    )


def talking(server: MCPServer) -> None:
    """Tools that say something while they run, or cut their stream off."""

    @server.tool()
    async def test_tool_with_logging(ctx: Context) -> str:
        for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(words)
            await asyncio.sleep(0.05)
        return "Tool with logging executed successfully"

    @server.tool()
    async def test_logging_tool(ctx: Context) -> str:
        await ctx.info("said only to those who asked for it")
        return "done"

    @server.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        for at in (0, 50, 100):
            await ctx.report_progress(progress=at, total=100, message=f"Completed step {at} of 100")
            await asyncio.sleep(0.05)
        return "done"

    @server.tool()
    async def test_reconnection(ctx: Context) -> str:
        await ctx.close_sse_stream()
        await asyncio.sleep(0.2)
        return "Reconnection test completed"

    @server.tool()
    async def test_trigger_tool_change(ctx: Context) -> str:
        await ctx.notify_tools_changed()
        return "told"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context) -> str:
        await ctx.notify_prompts_changed()
        return "told"


def asking(server: MCPServer) -> None:
    """Tools that ask in the middle of their call (2025-11-25)."""

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        answer = await ctx.session.create_message(messages=[message], max_tokens=100)
        said = answer.content
        return f"LLM response: {said.text if isinstance(said, TextContent) else said}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        return await _elicited(ctx, message, Said, "User response")

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        return await _elicited(ctx, "Please check these", Defaults, "Elicitation completed")

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        return await _elicited(ctx, "Please choose", Enums, "Elicitation completed")


async def _elicited(ctx: Context, message: str, schema: type[BaseModel], words: str) -> str:
    answer = await ctx.elicit(message=message, schema=schema)
    said = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"{words}: action={answer.action}, content={said}"


# --- rounds (2026-07-28)


def _form(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str, most: int = 100) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=most))


def _answers(ctx: Context) -> Mapping[str, Any]:
    found = ctx.input_responses or {}
    return {name: each.model_dump(by_alias=True) for name, each in found.items()}


def _name(answers: Mapping[str, Any], key: str, member: str) -> str | None:
    """What a form's answer says; None where it is no answer to that form."""
    content = answers.get(key, {}).get("content")
    said = content.get(member) if isinstance(content, dict) else None
    return said if isinstance(said, str) else None


def rounds(server: MCPServer) -> None:
    """Tools that return what they ask."""

    @server.tool()
    async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
        name = _name(_answers(ctx), "user_name", "name")
        if name is None:
            return InputRequiredResult(
                input_requests={"user_name": _form("What is your name?", name="string")}
            )
        return f"Hello, {name}!"

    @server.tool()
    async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
        answer = _answers(ctx).get("capital_question")
        if answer is None:
            asked = _sample("What is the capital of France?")
            return InputRequiredResult(input_requests={"capital_question": asked})
        return json.dumps(answer["content"])

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
        answer = _answers(ctx).get("client_roots")
        if answer is None:
            return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
        return json.dumps(answer["roots"])

    @server.tool()
    async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
        if "confirm" not in _answers(ctx):
            asked = {"confirm": _form("Please confirm", ok="boolean")}
            return InputRequiredResult(input_requests=asked, request_state="as it was")
        return "state-ok" if ctx.request_state == "as it was" else "state-lost"

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
        asked: dict[str, Any] = {
            "user_name": _form("What is your name?", name="string"),
            "greeting": _sample("Generate a greeting", 50),
            "client_roots": ListRootsRequest(),
        }
        if not asked.keys() <= _answers(ctx).keys():
            return InputRequiredResult(input_requests=asked, request_state="three")
        return f"all three, {ctx.request_state}"

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
        answers = _answers(ctx)
        if "step1" not in answers and ctx.request_state is None:
            asked = {"step1": _form("Step 1: What is your name?", name="string")}
            return InputRequiredResult(input_requests=asked, request_state="first")
        if ctx.request_state == "first":
            asked = {"step2": _form("Step 2: What is your favorite color?", color="string")}
            return InputRequiredResult(input_requests=asked, request_state="second")
        return f"{_name(answers, 'step2', 'color')}, {ctx.request_state}"

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
        if ctx.request_state is None:
            asked = {"confirm": _form("Please confirm", ok="boolean")}
            return InputRequiredResult(input_requests=asked, request_state="sealed")
        return "as it was"

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
        can, asked = ctx.client_capabilities, {}
        if can is not None and can.sampling is not None:
            asked["sampled"] = _sample("What is the capital of France?")
        if can is not None and can.elicitation is not None:
            asked["form"] = _form("What is your name?", name="string")
        return InputRequiredResult(input_requests=asked) if asked else "nothing to ask"

    @server.tool()
    async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
        await ctx.report_progress(progress=1, total=2)
        return InputRequiredResult(input_requests={"user_name": _form("What is your name?", name="string")})

    @server.tool()
    async def test_missing_capability(ctx: Context) -> str:
        can = ctx.client_capabilities
        if can is None or can.sampling is None:
            raise MCPError(
                code=-32021,
                message="this tool needs sampling",
                data={"requiredCapabilities": {"sampling": {}}},
            )
        return "has it"

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Context) -> Any:
        context = _name(_answers(ctx), "user_context", "context")
        if context is None:
            asked = {"user_context": _form("What context should the prompt use?", context="string")}
            return InputRequiredResult(input_requests=asked)
        return [UserMessage(content=TextContent(type="text", text=f"In the context of {context}"))]


# --- the rest, which is not guarded


def prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[UserMessage]:
        return [UserMessage(content=TextContent(type="text", text="This is a simple prompt for testing."))]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        words = f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"
        return [UserMessage(content=TextContent(type="text", text=words))]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
        words = "Please process the embedded resource above."
        return [
            UserMessage(
                content=_embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
            ),
            UserMessage(content=TextContent(type="text", text=words)),
        ]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        return [
            UserMessage(content=ImageContent(type="image", data=IMAGE, mime_type="image/png")),
            UserMessage(content=TextContent(type="text", text="Please analyze the image above.")),
        ]


def resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(IMAGE)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        return "Watched resource content"


def handlers(server: MCPServer) -> None:
    """What mcp has no decorator for."""
    low: Server[Any] = server._lowlevel_server

    @server.completion()
    async def complete(
        _ref: PromptReference | ResourceTemplateReference,
        _argument: CompletionArgument,
        _context: CompletionContext | None,
    ) -> Completion:
        return Completion(values=[], total=0, has_more=False)

    async def nothing(_ctx: object, _params: object) -> EmptyResult:
        return EmptyResult()

    low.add_request_handler("logging/setLevel", SetLevelRequestParams, nothing)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, nothing)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, nothing)


TOPICS = (content, talking, asking, rounds, prompts, resources, handlers)


def everything(*, guarded: bool) -> MCPServer:
    """The server. guarded: by `Stepwrit.from_env()`."""
    if guarded:
        from stepwrit.mcp import Stepwrit

        guard = Stepwrit.from_env(name="everything")
        server = MCPServer("everything", version="1", extensions=[guard], lifespan=guard.lifespan)
    else:
        server = MCPServer("everything", version="1", request_state_security=RequestStateSecurity.ephemeral())
    for topic in TOPICS:
        topic(server)
    for each in (*server._tool_manager._tools.values(), *server._prompt_manager._prompts.values()):
        each.description = each.description or f"{each.name}, as the suite has it"
    return server


def main() -> None:
    """Serve on loopback until ended."""
    app = everything(guarded="bare" not in sys.argv).streamable_http_app(
        event_store=Kept(), retry_interval=100
    )
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
