"""The OpenAPI schema of an answer, as it is sent: a response model shows what the endpoint returns before that."""

import copy
from collections.abc import Callable
from typing import Any

from mlguard.outputs._endpoint import is_stream, policies_of
from mlguard.outputs._paths import EVERY
from mlguard.outputs.scores import Scores
from mlguard.outputs.streaming import LINES
from mlguard.outputs.truncation import Truncation

Schema = dict[str, Any]

_JSON = "application/json"
_REFERENCE = "#/components/schemas/"
_CHOICES = ("anyOf", "oneOf", "allOf")

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": ["FP64", "INT64", "BYTES"]},
        "data": {"type": "array", "items": {"type": ["number", "string"]}},
    },
}
_OPEN_INFERENCE = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}


def describe_answer(operation: Schema, endpoint: Callable[..., Any] | None, schemas: Schema) -> None:
    """Change the answer of an operation to what ``truncate_output`` makes of it.

    Args:
        operation: Of the OpenAPI document, changed in place.
        endpoint: The route's.
        schemas: The document's components, to which answers refer.
    """
    policies = policies_of(endpoint)
    status = next((status for status in operation["responses"] if status.startswith("2")), "")
    content: Schema = operation["responses"].get(status, {}).get("content", {})
    if policies is None or _JSON not in content:
        return
    given: Schema = content[_JSON].get("schema", {})
    schema = _one_of([_answer(given, truncation, schemas) for truncation in policies.all])
    if is_stream(endpoint):
        del content[_JSON]
        content[LINES] = {"itemSchema": schema}
    else:
        content[_JSON] = {**content[_JSON], "schema": schema}


def _answer(given: Schema, truncation: Truncation, schemas: Schema) -> Schema:
    if truncation.answer is not None:
        return _OPEN_INFERENCE
    if not truncation.scores.policy.replaces_rows:
        return given
    whole = len(truncation.steps) == 1 and _resolve(given, schemas).get("type") == "array"
    return _at(given, () if whole else truncation.steps, truncation.scores, schemas)


def _at(schema: Schema, steps: tuple[str, ...], scores: Scores, schemas: Schema) -> Schema:
    """A copy of a schema with the scores replaced that are at the end of the steps."""
    schema = _resolve(schema, schemas)
    for choice in _CHOICES:
        if choice in schema:
            return {**schema, choice: [_at(option, steps, scores, schemas) for option in schema[choice]]}
    if not steps:
        return _scores(schema, scores, schemas)
    step, rest = steps[0], steps[1:]
    if step in schema.get("properties", {}):
        changed = _at(schema["properties"][step], rest, scores, schemas)
        return {**schema, "properties": {**schema["properties"], step: changed}}
    if schema.get("type") == "array" and "items" in schema and (step == EVERY or step.isdecimal()):
        changed = _at(schema["items"], rest, scores, schemas)
        return {**schema, "items": changed if step == EVERY else _one_of([changed, schema["items"]])}
    return schema


def _resolve(schema: Schema, schemas: Schema) -> Schema:
    while "$ref" in schema:
        schema = schemas.get(schema["$ref"].removeprefix(_REFERENCE), {})
    return copy.deepcopy(schema)


def _scores(given: Schema, scores: Scores, schemas: Schema) -> Schema:
    if scores.policy.bins is not None:
        return _bins(given, scores, schemas)
    entry = _row(scores)
    if given.get("type", "array") != "array":
        return given  # no scores, so there is no answer
    rows = {"type": "array", "items": entry}
    if "items" not in given:
        return {"anyOf": [entry, rows]}
    return rows if _resolve(given["items"], schemas).get("type") == "array" else entry


def _bins(given: Schema, scores: Scores, schemas: Schema) -> Schema:
    given = _resolve(given, schemas)
    if given.get("type") == "array":
        return {**given, "items": _bins(given.get("items", {}), scores, schemas)}
    if scores.policy.bins_as == "midpoint" or given.get("type") not in {"number", "integer"}:
        return given
    return {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}


def _row(scores: Scores) -> Schema:
    """What stands for one row."""
    policy = scores.policy
    label = _label(scores)
    entry: Schema = {"type": "array", "items": {"type": "number"}}
    if policy.label_only:
        entry = label
    elif policy.top_k is not None or policy.confidence is not None:
        properties = {"label": label, "score": {"type": "number"}}
        entry["items"] = {"type": "object", "required": ["label", "score"], "properties": properties}
    if policy.min_confidence is not None:
        return _one_of([entry, {"type": "null"} if policy.abstain is None else {"const": policy.abstain}])
    return entry


def _label(scores: Scores) -> Schema:
    if scores.labels is not None:
        return {"enum": [*scores.names(len(scores.labels))]}
    number = {"type": "integer", "minimum": 0}
    return number if scores.policy.rest is None else _one_of([number, {"const": scores.policy.rest}])


def _one_of(schemas: list[Schema]) -> Schema:
    different = [schema for at, schema in enumerate(schemas) if schema not in schemas[:at]]
    return different[0] if len(different) == 1 else {"anyOf": different}
