from __future__ import annotations

from pathlib import Path

import pytest

from shared.core.plans import Limits, parse_plans
from shared.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "configs" / "system" / "plans.yml"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_plans(text, "plans.yml")
    return [str(fault) for fault in caught.value.faults]


def test_the_plans_that_are_shipped() -> None:
    assert parse_plans(SHIPPED.read_text(), str(SHIPPED)) == {
        "starter": Limits(daily=6, monthly=180, concurrent=1),
        "professional": Limits(daily=25, monthly=750, concurrent=2),
        "scale": Limits(daily=100, monthly=3000, concurrent=5),
        "enterprise": Limits(daily=None, monthly=None, concurrent=50),
    }


def test_all_faulty_plans_are_told_at_once_with_their_line() -> None:
    text = """\
a: {daily: 1, monthly: 1, concurrent: unlimited}
b: {dialy: 1, monthly: 1, concurrent: 1}
c: {daily: 1, monthly: 1}
d: {daily: -1, monthly: 1, concurrent: 1}
e: {daily: yes, monthly: 1, concurrent: 1}
f: 3
1: {daily: 1, monthly: 1, concurrent: 1}
ok: {daily: 1, monthly: 1, concurrent: 1}
ok: {daily: 2, monthly: 1, concurrent: 1}
"""
    found = faults(text)
    assert [fault.split(" ")[0] for fault in found] == [
        f"plans.yml:{line}:1" for line in (1, 2, 3, 4, 5, 6, 7, 9)
    ]
    assert "unlimited" in found[0]
    assert "dialy" in found[1]
    assert "concurrent" in found[2]
    assert "written twice" in found[-1]


@pytest.mark.parametrize(
    ("text", "where"),
    [("", "plans.yml "), ("- a", "plans.yml "), ("3", "plans.yml "), ("a: [", "plans.yml:1:5 ")],
)
def test_a_text_without_plans_is_a_fault(text: str, where: str) -> None:
    (found,) = faults(text)
    assert found.startswith(where)
