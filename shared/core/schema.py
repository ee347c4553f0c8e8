"""The JSON Schemas of configuration files, for editors: from the same types that the parsers use.

`configs/schema.json` is that of pipelines, where `ps_type` decides which `config` is expected, and
`configs/system/providers.schema.json` that of the registry of providers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.core.pipeline import Processors
from shared.core.providers import Name, ProviderSpec
from shared.core.spec import PipelineSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = {"type": "string", "pattern": r"^\$?\{[a-z_][a-z0-9_]*\}$"}
_HAS_TEMPLATE = {"type": "string", "pattern": r"\{[a-z_][a-z0-9_]*\}"}


def pipeline_schema(processors: Processors) -> dict[str, Any]:
    """The schema of a pipeline file that may use these processors."""
    (top,), types = msgspec.json.schema_components([PipelineSpec], ref_template="#/$defs/{name}")
    definitions: dict[str, Any] = dict(types)
    step = definitions["StepSpec"]
    step["properties"]["ps_type"]["enum"] = sorted(processors)
    step["allOf"] = []
    for ps_type in sorted(processors):
        config = definitions[ps_type] = _config(ps_type, processors[ps_type].config)
        then: dict[str, Any] = {"properties": {"config": {"$ref": f"#/$defs/{ps_type}"}}}
        if config.get("required"):
            then["required"] = ["config"]
        named = {"properties": {"ps_type": {"const": ps_type}}, "required": ["ps_type"]}
        step["allOf"].append({"if": named, "then": then})
    main = definitions.pop(str(top["$ref"]).rpartition("/")[2])
    return {"$schema": DIALECT, **main, "title": "Pipeline", "$defs": definitions}


def providers_schema() -> dict[str, Any]:
    """The schema of `configs/system/providers.yml`."""
    (top,), types = msgspec.json.schema_components(
        [dict[Name, ProviderSpec]], ref_template="#/$defs/{name}"
    )
    return {"$schema": DIALECT, **top, "title": "Providers", "$defs": types}


def schema_text(schema: dict[str, Any]) -> str:
    """The content of a schema's file: stable, one key a line."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def _config(ps_type: str, kind: type) -> dict[str, Any]:
    """The schema of one processor's config, in which a template may stand for any value."""
    (top,), types = msgspec.json.schema_components(
        [kind], ref_template=f"#/$defs/{ps_type}/$defs/{{name}}"
    )
    inner = {name: _templated_fields(schema) for name, schema in types.items()}
    main = inner.pop(str(top["$ref"]).rpartition("/")[2])
    return {**main, "$defs": inner} if inner else main


def _templated_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """The definition of a record or an enum; in a record every value may be a template."""
    if "properties" not in schema:
        return schema
    properties = {name: _templated(value) for name, value in schema["properties"].items()}
    return {**schema, "properties": properties}


def _templated(schema: dict[str, Any]) -> dict[str, Any]:
    """A value's schema that also takes `"{name}"`; what it says of the value stays outside."""
    if not schema:
        return schema
    said = {key: value for key, value in schema.items() if key in _SAID}
    rest = {key: value for key, value in schema.items() if key not in _SAID}
    options = rest.get("anyOf", [rest])
    if any(_free_text(option) for option in options):
        templates = []
    elif any(option.get("type") == "string" for option in options):
        templates = [_HAS_TEMPLATE]
    else:
        templates = [_TEMPLATE]
    inside = [_templated_inside(option) for option in options]
    if len(inside) == 1 and not templates:
        return {**said, **inside[0]}
    return {**said, "anyOf": inside + templates}


_SAID = frozenset({"title", "description", "examples", "default"})


def _templated_inside(schema: dict[str, Any]) -> dict[str, Any]:
    containers = {
        key: _templated(schema[key])
        for key in ("items", "additionalProperties")
        if isinstance(schema.get(key), dict)
    }
    return {**schema, **containers}


def _free_text(schema: dict[str, Any]) -> bool:
    """Can it be any text?"""
    limits = {"pattern", "format", "enum", "const", "minLength", "maxLength"}
    return schema.get("type") == "string" and not schema.keys() & limits
