"""What broker.toml may say, from the settings themselves: for people (Markdown) and editors (JSON Schema)."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from stepwrit_broker.config_reader import PREFIX, Setting, sections, settings

_HEAD = """# Configuration: broker.toml

<!-- generated from broker/stepwrit_broker/config.py; `make docs` writes it again -->

An unknown key is refused with the nearest one that exists. Relative paths are relative to the file's folder.
The environment wins over the file; lists are separated by commas there. No setting holds a secret.
"""


def reference(config: type) -> str:
    """docs/reference/configuration.md: every setting with unit, default, variable and meaning."""
    parts = [
        _HEAD,
        *(_section(f"[{name}]" if name else "(top)", kind, name) for name, kind in sections(config).items()),
    ]
    lists = [each for each in settings(config) if get_origin(each.kind) is tuple]
    parts += [_section(f"[[{each.name}]]", get_args(each.kind)[0], None) for each in lists]
    return "\n".join(parts)


def _section(title: str, kind: type, name: str | None) -> str:
    rows = [_row(each, name) for each in settings(kind) if each.means is not None]
    head = ["| key | default | unit | environment | meaning |", "|---|---|---|---|---|"]
    return "\n".join([f"## `{title}`", "", inspect.getdoc(kind) or "", "", *head, *rows, ""])


def _row(each: Setting, section: str | None) -> str:
    assert each.means is not None  # noqa: S101  _section asks for such settings only
    default = "required" if each.is_needed else f"`{toml_value(each.default)}`"
    variable = (
        "" if section is None else f"`{PREFIX}{(f'{section}_' if section else '') + each.name}`".upper()
    )
    return f"| `{each.name}` | {default} | {each.means.unit} | {variable} | {each.means.text} |"


def toml_value(value: object) -> str:
    """A default as TOML writes it."""
    if isinstance(value, Path):
        return json.dumps("" if value == Path() else value.as_posix())
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value)


def schema(config: type) -> str:
    """docs/reference/schemas/broker.schema.json."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://stepwrit.dev/schemas/broker.schema.json",
        "title": "broker.toml",
    }
    return json.dumps({**head, **_table(config)}, indent=2) + "\n"


def _table(kind: type) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "object",
        "description": inspect.getdoc(kind),
        "properties": {each.name: _property(each) for each in settings(kind)},
        "additionalProperties": False,
    }
    needed = [each.name for each in settings(kind) if each.is_needed]
    return {**made, "required": needed} if needed else made


def _property(each: Setting) -> dict[str, Any]:
    made = _type(each.kind)
    if each.means is None:
        return made
    made["description"] = each.means.text
    if each.means.least is not None:
        made.get("items", made)["minimum"] = each.means.least
    if not each.is_needed:
        made["default"] = json.loads(toml_value(each.default))
    return made


def _type(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _table(kind)
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _type(get_args(kind)[0])}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    return {"type": _JSON_TYPES[kind]}


_JSON_TYPES: dict[Any, str] = {str: "string", Path: "string", int: "integer", float: "number"}
