"""The OpenAPI 3.1 document of the API, made of the types that read its requests and write its answers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import inspect as nodes

from functions.api.admin import NAME
from functions.api.problems import Problem, QuotaProblem
from functions.api.route import Route
from functions.api.subscriptions import REF
from shared import VERSION
from shared.core.kinds import LISTS, bare
from shared.core.lineage import SLUG
from shared.core.record import Record
from shared.core.spec import NAME_PATTERN
from shared.core.subscription import ID
from shared.engine.catalog import PART
from shared.errors import CODES

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PROBLEM = "application/problem+json"
_KEY = "ApiKey"
_TAKEN = (413, 415)  # what every body may be refused with
_STATUSES = {
    200: "All is well.",
    201: "It was created.",
    202: "It is stored, and will be done.",
    204: "It is done; there is nothing to say.",
    400: "What was sent is not valid.",
    401: "There is no valid API key.",
    403: "The key may not do this.",
    404: "There is no such thing, or not for this key.",
    409: "The thing is not in a state that allows this.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The Idempotency-Key was used for another request.",
    429: "A limit is reached; waiting helps.",
    500: "A fault of the engine.",
    503: "A store of the engine cannot be reached; waiting helps.",
}
# What it is, an example, and the form without which there is no such thing.
_PATH_VALUES = {
    "org": ("The slug of the organization.", "acme", SLUG.pattern),
    "provider": ("Who is billed.", "aws", NAME),
    "domain": ("What is billed.", "cost", PART.pattern),
    "pipeline": ("The name of the pipeline.", "billing", PART.pattern),
    "run_id": ("The id of the run.", "r2c7f0e0f7c4a4d6b9a1e3c5d7", "r[0-9a-f]{25}"),
    "key_id": ("The id of the key.", "0123456789ab", "[0-9a-f]{12}"),
    "schedule_id": ("The name of the schedule.", "daily", NAME_PATTERN.strip("^$")),
    "credential_id": ("The name of the credential.", "main", NAME),
    "subscription_id": ("The name of the subscription.", "slack", ID.strip("^$")),
    "ref": ("The number of the credit note.", "CN-1001", REF),
    "letter_id": ("The id of the dead letter.", "1", "[A-Za-z0-9_-]{1,64}"),
}
_REFUSALS = tuple(status for status in _STATUSES if status >= 400)
_RATE = ("RateLimit-Policy", "RateLimit")
_TEXT: Schema = {"type": "string"}
# What it says, its form, and whether it is on every answer that lists it.
_HEADERS: Mapping[str, tuple[str, Schema, bool]] = {
    "X-Request-Id": ("The id of this request: the caller's own, or a new one.", _TEXT, True),
    "Location": ("Where the status of the run is.", _TEXT, True),
    "Idempotency-Replayed": (
        "The run was started by an earlier call with the same key.",
        {"type": "string", "enum": ["true"]},
        False,
    ),
    "Retry-After": (
        "Seconds until it is worth coming back; a promise only where the limit begins anew at a time.",
        {"type": "string", "pattern": "^[1-9][0-9]*$"},
        True,
    ),
    "WWW-Authenticate": ("How to say who asks.", _TEXT, True),
    "RateLimit-Policy": (
        "How many requests are taken in how many seconds.",
        {"type": "string", "pattern": '^"key";q=[0-9]+;w=[0-9]+$'},
        True,
    ),
    "RateLimit": (
        "How many requests are left, and in how many seconds all of them are.",
        {"type": "string", "pattern": '^"key";r=[0-9]+;t=[0-9]+$'},
        True,
    ),
}


def document(routes: Iterable[Route], prefix: str) -> Schema:
    """The description of the routes, whose paths are below `prefix`."""
    routes = tuple(routes)
    schemas = _schemas({kind for route in routes for kind in _kinds(route)})
    paths: dict[str, Schema] = {}
    for route in routes:
        path = re.sub(r"<(\w+)>", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cost pipelines",
            "version": VERSION,
            "description": "Starts runs of pipelines, and tells of them. docs/api.md is its reference.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix}],
        "security": [{_KEY: []}],
        "paths": paths,
        "components": {
            "securitySchemes": {_KEY: {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
            "headers": {
                name: {"description": said, "schema": schema, "required": required}
                for name, (said, schema, required) in _HEADERS.items()
            },
            "responses": {str(status): _refusal(status) for status in _REFUSALS},
            "schemas": schemas,
        },
    }


def summary_of(route: Route) -> str:
    """The first sentence of what its handler promises."""
    return re.split(r"(?<=[.;])\s|\n", route.run.__doc__ or "")[0].rstrip(".;")


def refusals(route: Route) -> list[int]:
    """The statuses of every problem that it may answer with."""
    found = {400, 500, 503, *route.conflicts}
    if route.scope is not None:
        found |= {401, 403, 404, 429}
    if route.body is not None:
        found |= set(_TAKEN)
    return sorted(found)


def _kinds(route: Route) -> Iterable[type]:
    yield from (kind for kind in route.answers.values() if kind is not None and _named(kind))
    if route.body is not None:
        yield route.body


def _named(kind: type) -> bool:
    return issubclass(kind, msgspec.Struct)


def _schemas(kinds: set[type]) -> dict[str, Schema]:
    """Of these types and all that is in them: nothing comes that is not told, and a time is one."""
    in_order = sorted(kinds | {Problem, QuotaProblem}, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(in_order, ref_template=_REF)
    for record in _records(in_order):
        schema = schemas[record.cls.__name__]
        schema["additionalProperties"] = False
        for field in record.fields:
            if _is_time(field.type):
                _say_time(schema["properties"][field.encode_name])
    for kind in (Problem, QuotaProblem):
        schemas[kind.__name__]["properties"]["error"]["enum"] = sorted(CODES)
    return dict(schemas)


def _records(kinds: Iterable[type]) -> Iterable[nodes.StructType]:
    """The records among the types, and those inside them."""
    left: list[nodes.Type] = [nodes.type_info(kind) for kind in kinds]
    seen: set[type] = set()
    while left:
        match bare(left.pop()):
            case nodes.StructType(cls=cls, fields=fields) as record if cls not in seen:
                seen.add(cls)
                left += [field.type for field in fields]
                yield record
            case nodes.UnionType(types=options):
                left += options
            case nodes.DictType(value_type=inner):
                left.append(inner)
            case node if isinstance(node, LISTS):
                left.append(node.item_type)


def _is_time(node: nodes.Type) -> bool:
    match bare(node):
        case nodes.UnionType(types=options):
            return any(map(_is_time, options))
        case plain:
            return isinstance(plain, nodes.DateTimeType)


def _say_time(schema: Schema) -> None:
    """A time without a zone would be none of JSON Schema, so msgspec does not say it; all have one."""
    for option in schema.get("anyOf", [schema]):
        if option.get("type") == "string":
            option["format"] = "date-time"


def _operation(route: Route, schemas: Mapping[str, Schema]) -> Schema:
    told: Schema = {
        "operationId": route.run.__name__,
        "tags": [route.path.split("/")[1]],
        "summary": summary_of(route),
        "parameters": [
            *_path_values(route),
            *_query_values(route.query),
            *(_request_headers() if route.keyed else ()),
        ],
        "responses": {
            **{str(status): _answer(route, status) for status in sorted(route.answers)},
            **{str(s): {"$ref": f"#/components/responses/{s}"} for s in refusals(route)},
        },
    }
    if route.scope is None:
        told["security"] = []
    else:
        whose = " of the platform" if route.platform or "<org>" not in route.path else ""
        told["description"] = (
            f"{inspect.getdoc(route.run)}\n\nNeeds a key{whose} with the scope {route.scope}."
        )
    if route.body is not None:
        needed = bool(schemas[route.body.__name__].get("required"))
        told["requestBody"] = {
            "required": needed,
            "content": {"application/json": {"schema": _ref(route.body)}},
        }
    return told


def _path_values(route: Route) -> Iterable[Schema]:
    for name in re.findall(r"<(\w+)>", route.path):
        description, example, form = _PATH_VALUES[name]
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": {"type": "string", "pattern": f"^{form}$"},
            "example": example,
        }


def _query_values(query: type[Record]) -> Iterable[Schema]:
    schema = msgspec.json.schema_components([query], ref_template="{name}")[1]
    for name, said in schema[query.__name__]["properties"].items():
        inlined = _inlined(said, schema)
        told = {"name": name, "in": "query", "required": False}
        if "description" in inlined:
            told["description"] = inlined.pop("description")
        yield {**told, "schema": inlined}


def _inlined(said: Schema, named: Mapping[str, Schema]) -> Schema:
    """The schema of a query's parameter: of one value, which cannot be null."""
    told = {key: value for key, value in said.items() if value is not None}
    for option in told.pop("anyOf", []):
        if option != {"type": "null"}:
            told = {**_inlined(option, named), **told}
    if reference := told.pop("$ref", None):
        told["enum"] = named[reference]["enum"]
    if told.pop("format", None) == "date-time":
        return {**told, "anyOf": [{"format": "date-time"}, {"format": "date"}]}
    return told


def _request_headers() -> Iterable[Schema]:
    yield {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The same key with the same request is the same run, whatever happens on the way.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
        "example": "billing-2026-01",
    }


def _answer(route: Route, status: int) -> Schema:
    headers = ["X-Request-Id"]
    if route.keyed and status == 202:
        headers += ["Location", "Idempotency-Replayed"]
    if route.scope is not None:
        headers += _RATE
    told: Schema = {"description": _STATUSES[status], "headers": _headers(headers)}
    if (kind := route.answers[status]) is not None:
        schema = _ref(kind) if _named(kind) else {"type": "object"}
        if route.files:
            schema = {"type": "array", "items": schema}
        texts = {media: {"schema": {"type": "string"}} for media in route.files}
        told["content"] = {"application/json": {"schema": schema}, **texts}
    return told


def _refusal(status: int) -> Schema:
    headers = ["X-Request-Id"]
    if status == 401:
        headers.append("WWW-Authenticate")
    if status in (429, 503):
        headers.append("Retry-After")
    content = {"schema": _problem(status), "examples": _examples(status)}
    return {
        "description": _STATUSES[status],
        "headers": _headers(headers),
        "content": {_PROBLEM: content},
    }


def _headers(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problem(status: int) -> Schema:
    if status != 429:
        return _ref(Problem)
    return {"anyOf": [_ref(QuotaProblem), _ref(Problem)]}


def _examples(status: int) -> Schema:
    """One for each code that comes with the status, with what to do about it."""
    return {
        code: {
            "summary": known.cause,
            "description": known.fix,
            "value": _example(code, status, known.cause),
        }
        for code, known in CODES.items()
        if status in known.statuses
    }


def _example(code: str, status: int, cause: str) -> Schema:
    told: Schema = {
        "type": "about:blank",
        "title": code.replace("_", " "),
        "status": status,
        "error": code,
        "detail": cause,
        "request_id": "r2c7f0e0f7c4a4d6b9a1e3c5d7",
    }
    if code == "quota_exceeded":
        told |= {"limit_type": "concurrent", "limit": 2, "used": 2, "reset_at": None}
    return told


def _ref(kind: type) -> Schema:
    return {"$ref": _REF.format(name=kind.__name__)}
