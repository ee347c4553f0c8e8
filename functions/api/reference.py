"""The reference pages, made of what they tell: `python -m functions.api.reference`.

It writes docs/api.md, docs/errors.md and docs/focus.md; with `--check` it compares them instead, and exits with 2 when
one is not what this release would write.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from functions.api import focus_page
from functions.api.markdown import table
from functions.api.openapi import Schema, summary_of
from functions.api.routes import PREFIX, ROUTES, openapi_text
from shared.errors import CODES

ROOT = Path(__file__).resolve().parents[2]
_COMMAND = "python -m functions.api.reference"
_MADE = f"<!-- written by `{_COMMAND}`; change the code instead -->\n"


def pages() -> dict[Path, str]:
    """Every page with its text."""
    docs = ROOT / "docs"
    return {
        docs / "api.md": _api(),
        docs / "errors.md": _errors(),
        docs / "focus.md": f"{_MADE}{focus_page.page()}",
    }


def main(arguments: Sequence[str]) -> int:
    """0: the pages are as they should be. 2: with `--check`, one is not."""
    stale = [
        (path, text)
        for path, text in pages().items()
        if not path.exists() or path.read_text() != text
    ]
    if "--check" not in arguments:
        for path, text in stale:
            path.write_text(text)
        return 0
    for path, _ in stale:
        sys.stderr.write(f"{path.relative_to(ROOT)} is not of this release; {_COMMAND} writes it\n")
    return 2 if stale else 0


def _errors() -> str:
    rows = [
        (f"`{code}`", ", ".join(map(str, known.statuses)), known.cause, known.fix)
        for code, known in sorted(CODES.items())
    ]
    return (
        f"{_MADE}# Errors of the API\n\n"
        "An answer that is not 2xx is a problem as RFC 9457 has it (`application/problem+json`). Its"
        " `error` is one of these codes: they are for programs, and do not change. `detail` says it in"
        " words, `faults` names each field that is wrong, and `request_id` is what to quote in a"
        " report.\n\n" + table(("error", "status", "why", "what to do"), rows)
    )


def _api() -> str:
    described = json.loads(openapi_text())
    parts = [
        f"{_MADE}# The API\n",
        (
            f"Paths begin with `{PREFIX}`, which may be left out. `GET {PREFIX}/openapi.json` describes all"
            " of this for programs, with the schema of every answer; [errors.md](errors.md) has every"
            " error.\n"
        ),
        (
            "A key is sent in the header `X-API-Key`. What belongs to another organization than the key's"
            " does not exist: 404. Bodies are JSON objects of at most 1 MB. A field or a parameter that is"
            " not known is refused, and all faults are told at once. Answers may get new fields.\n"
        ),
        table(("", "path", "", "scope"), [_row(route_name) for route_name in ROUTES]),
    ]
    for name, route in ROUTES.items():
        path = _path(route.path)
        operation = described["paths"][path][route.method.lower()]
        parts.append(_section(name, operation, described["components"]["schemas"]))
    return "\n".join(parts)


def _row(name: str) -> tuple[str, str, str, str]:
    route = ROUTES[name]
    scope = "none" if route.scope is None else str(route.scope)
    if route.platform or (route.scope is not None and "<org>" not in route.path):
        scope += ", platform"
    return route.method, f"`{_path(route.path)}`", summary_of(route), scope


def _section(name: str, operation: Schema, schemas: Schema) -> str:
    method, _, path = name.partition(" ")
    route = ROUTES[name]
    lines = [f"## {method} {_path(path)}\n", f"{inspect.getdoc(route.run)}\n"]
    given = [
        (
            f"`{value['name']}`",
            value["in"],
            _kind(value["schema"]),
            _said(value),
        )
        for value in operation["parameters"]
        if value["in"] != "path"
    ]
    if route.body is not None:
        said = schemas[route.body.__name__]
        needed = said.get("required", [])
        given += [
            (
                f"`{field}`" + (" (needed)" if field in needed else ""),
                "body",
                _kind(schema),
                _said(schema),
            )
            for field, schema in said["properties"].items()
        ]
    if given:
        lines.append(table(("", "in", "is", ""), given))
    answers = [
        f"{status} with `{kind.__name__}`" if kind not in (None, dict) else str(status)
        for status, kind in route.answers.items()
    ]
    refused = [status for status in operation["responses"] if int(status) >= 400]
    lines.append(f"Answers {' or '.join(answers)}; refuses with {', '.join(refused)}.\n")
    return "\n".join(lines)


def _said(schema: Schema) -> str:
    """Its description, or that of the one thing that it may be if it is not null."""
    inside = (option.get("description") for option in schema.get("anyOf", ()))
    return schema.get("description") or next(filter(None, inside), "")


def _kind(schema: Schema) -> str:
    """A type in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        options: Iterable[Any] = (one for one in schema["anyOf"] if one.get("type") != "null")
        return " or ".join(_kind(one) for one in options)
    words = schema.get("format") or schema.get("type", "anything")
    return f"list of {_kind(schema['items'])}" if words == "array" else str(words)


def _path(path: str) -> str:
    return path.replace("<", "{").replace(">", "}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
