"""A document against its published JSON Schema, with every problem said in the operator's words."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from stepwrit_broker.registry.marked import Path, Problem

_UNKNOWN = "is not known here"
_A_TYPE = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
}


@functools.cache
def schema_text(name: str) -> str:
    """The published schema of `registry`, `limits` or `scenarios`."""
    folder = resources.files("stepwrit_broker.registry").joinpath("schemas")
    return folder.joinpath(f"{name}.schema.json").read_text(encoding="utf-8")


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema_text(name)))


def check(name: str, document: object) -> list[Problem]:
    """Every problem of the document's shape."""
    errors = _validator(name).iter_errors(cast("Any", document))
    found = [problem for error in errors for problem in _said(error)]
    unknown = {path for path, what in found if what.startswith(_UNKNOWN)}
    return [each for each in found if each[0] not in unknown or each[1].startswith(_UNKNOWN)]


def _said(error: ValidationError) -> Iterable[Problem]:
    path: Path = tuple(error.absolute_path)
    schema = cast("Mapping[str, Any]", error.schema)
    if error.validator == "additionalProperties":
        instance = cast("Mapping[str, object]", error.instance)
        yield from (
            _unknown(path, key, schema["properties"]) for key in instance if key not in schema["properties"]
        )
    elif "propertyNames" in error.absolute_schema_path:
        yield _bad_name(path, str(error.instance), schema)
    else:
        yield path, _what(error, schema)


def _unknown(path: Path, key: str, known: Iterable[str]) -> Problem:
    near = difflib.get_close_matches(key, list(known), n=1)
    return (*path, key), _UNKNOWN + (f"; did you mean {near[0]}?" if near else "")


def _bad_name(path: Path, key: str, schema: Mapping[str, Any]) -> Problem:
    if "enum" not in schema:
        return (*path, key), f"must be {schema.get('description', 'another name')}"
    return (*path, key), f"does not belong here; there may be {', '.join(schema['enum'])}"


def _what(error: ValidationError, schema: Mapping[str, Any]) -> str:
    wanted: Any = error.validator_value
    match error.validator:
        case "required":
            missing = [name for name in wanted if name not in cast("Mapping[str, object]", error.instance)]
            return f"needs {', '.join(missing)}"
        case "enum":
            return f"must be one of {', '.join(str(each) for each in wanted)}"
        case "pattern":
            return f"must be {schema.get('description', 'written otherwise')}"
        case "type":
            return f"must be {_A_TYPE.get(wanted, wanted)}"
        case other:
            return _SAID.get(str(other), "does not fit: {0}").format(wanted)


_SAID = {
    "const": "must be {0}",
    "minimum": "must be at least {0}",
    "maximum": "must be at most {0}",
    "minItems": "needs at least {0}",
    "maxItems": "takes at most {0}",
    "minLength": "needs at least {0} characters",
    "maxLength": "takes at most {0} characters",
    "minProperties": "needs at least {0}",
    "maxProperties": "takes at most {0}",
    "uniqueItems": "names something twice",
}
