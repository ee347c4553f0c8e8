"""Every code that an answer may carry is explained, and every code that is explained is told somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shared import errors
from shared.errors import CODES, RequestError
from shared.settings import ROOT

TOLD_BY_PROBLEMS = {"unavailable", "configuration_fault", "internal"}


def request_errors() -> dict[str, type[RequestError]]:
    return {
        name: found
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, RequestError)
    }


def told(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each code given to an error of the caller, with the status of the error."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            kind = request_errors().get(node.func.id)
            for given in node.keywords if kind is not None else ():
                for inner in ast.walk(given.value) if given.arg == "code" else ():
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        assert kind is not None
                        yield inner.value, kind.status


def test_every_code_is_explained_with_its_status() -> None:
    found = {(kind.code, kind.status) for kind in request_errors().values()}
    for folder in ("shared", "functions"):
        for file in (ROOT / folder).rglob("*.py"):
            found |= set(told(ast.parse(file.read_text())))
    assert {code for code, _ in found} >= {"run_not_found", "credential_missing", "scope_missing"}
    unexplained = {(code, status) for code, status in found if code not in CODES}
    assert not unexplained
    assert [(code, status) for code, status in found if status not in CODES[code].statuses] == []
    passed_on = {"unsealable"}  # from a Terminal error of the vault
    assert set(CODES) - {code for code, _ in found} == TOLD_BY_PROBLEMS | passed_on


def test_an_explanation_says_why_and_what_to_do() -> None:
    for code, (statuses, cause, fix) in CODES.items():
        assert all(400 <= status < 600 for status in statuses), code
        assert cause.endswith("."), code
        assert fix.endswith("."), code
