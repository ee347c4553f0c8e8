"""A second opinion: the FinOps Foundation's validator on our 1.2 view, and what it does not see.

It wants an environment of its own (`make .venv-focus/.ready`).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.bootstrap.focus_file import check_file
from shared.cli.sample import make_export
from shared.core import focus
from shared.core.focus import FocusType
from shared.settings import ROOT
from tests.support import official_validator
from tests.support.focus import check_focus
from tests.support.system import EmbeddedSystem

PYTHON = ROOT / ".venv-focus" / "bin" / "python"
pytestmark = [
    pytest.mark.cloud,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not PYTHON.exists() and os.environ.get("CI") != "true",
        reason="the validator's environment is not made: make .venv-focus/.ready",
    ),
]
ORG = "acme_co"
# What the validator has against rows that are right, and why it is wrong.
ALLOWED = {
    "EffectiveCost-C-005-C": "asks an EffectiveCost of 0 of every Purchase; the specification asks it "
    "only of one that covers charges to come, and the sample's other purchases cover none",
    "InvoiceId-C-004-C": "judges a null and a value of InvoiceId by rules that exclude each other, "
    "without their condition (FOCUS_Spec issue 2394)",
}

Rows: TypeAlias = dict[str, list[Any]]


class Mutation(NamedTuple):
    """A fault, and every rule of ours that finds it."""

    change: Callable[[Rows], None]
    rules: set[str]


def cell(column: str, value: Any) -> Callable[[Rows], None]:
    """Writes the value into one row of usage."""

    def change(rows: Rows) -> None:
        rows[column][_usage(rows)] = value

    return change


def _usage(rows: Rows) -> int:
    return next(
        place
        for place, category in enumerate(rows["ChargeCategory"])
        if category == "Usage" and rows["BilledCost"][place] > 0 and rows["SkuPriceId"][place]
    )


def negate(rows: Rows) -> None:
    rows["BilledCost"][_usage(rows)] *= -1


def as_texts(rows: Rows) -> None:
    rows["BilledCost"] = [str(cost) for cost in rows["BilledCost"]]


def add_column(rows: Rows) -> None:
    rows["CostCenter"] = ["42"] * len(rows["BilledCost"])


# Measured: none of these changes what the validator says of the file.
UNSEEN = {
    "an enumeration in lower case": Mutation(cell("ChargeCategory", "usage"), {"ChargeCategory.allowed"}),
    "a value of nobody": Mutation(cell("PricingCategory", "On-Demand"), {"PricingCategory.allowed"}),
    "a unit that is none": Mutation(cell("PricingUnit", "foo bar"), {"PricingUnit.format"}),
    "a time without its zone": Mutation(cell("ChargePeriodEnd", "2025-02-27 00:00:00"), {"ChargePeriodEnd.format"}),
    "a list cost of nothing": Mutation(cell("ListCost", Decimal("987.65")), {"ListCost.product"}),
    "a contracted cost of nothing": Mutation(cell("ContractedCost", Decimal("987.65")), {"ContractedCost.product"}),
    "a billed cost turned round": Mutation(negate, {"ContractedCost.sign", "EffectiveCost.sign", "ListCost.sign"}),
    "costs as texts": Mutation(as_texts, {"BilledCost.type"}),
    "a column of nobody": Mutation(add_column, {"columns.custom"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The view of 1.2 after a month of AWS costs, column by column, as a file has it."""
    with EmbeddedSystem(tmp_path_factory.mktemp("system")) as system:
        key = system.organization(ORG)
        source = system.objects(ORG) / "exports"
        source.mkdir(parents=True)
        make_export(source, rows=400, period="2025-02", files=1, seed=5)
        secret = system.source(ORG, "exports")
        system.call("PUT", f"/admin/orgs/{ORG}/credentials/aws/main", secret)
        days = {"start_date": "2025-02-01", "end_date": "2025-02-28"}
        run = system.run(ORG, "aws/cost/billing", days, key=key)
        assert run["status"] == "completed", run
        warehouse = system.app.warehouse()
        assert check_focus(warehouse, f"{ORG}_test").broken == ()
        names = focus.of_version("1.2")
        found = warehouse.query(f"{ORG}_test", f"SELECT {', '.join(names)} FROM focus_1_2", {})
    rows: Rows = {
        name: list(cells) for name, cells in zip(names, zip(*found.rows, strict=True), strict=True)
    }
    for name in names:
        if focus.columns()[name].type is FocusType.TIMESTAMP:
            rows[name] = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in rows[name]]
    return rows


@pytest.fixture(scope="module")
def files(view: Rows, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The view as it is, and with each of the mutations."""
    folder = tmp_path_factory.mktemp("files")
    made = {"": folder / "view.parquet"}
    _write(made[""], view)
    for place, (name, mutation) in enumerate(UNSEEN.items()):
        mutated = {column: list(cells) for column, cells in view.items()}
        mutation.change(mutated)
        made[name] = folder / f"mutation-{place}.parquet"
        _write(made[name], mutated)
    return made


def _write(path: Path, rows: Rows) -> None:
    arrays = {}
    for name, cells in rows.items():
        column = focus.columns().get(name)
        number = column is not None and column.type is FocusType.DECIMAL
        texts = any(isinstance(value, str) for value in cells)
        kind = pa.decimal128(38, 18) if number and not texts else pa.string()
        arrays[name] = pa.array(cells, kind)
    pq.write_table(pa.table(arrays), path)


@pytest.fixture(scope="module")
def verdicts(files: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    """What the official validator says of each file."""
    done = subprocess.run(
        [PYTHON, official_validator.__file__, *files.values()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    return {name: said[str(path)] for name, path in files.items()}


def test_the_official_validator_has_nothing_against_our_view_but_what_it_is_wrong_about(
    verdicts: dict[str, dict[str, list[str]]],
) -> None:
    assert verdicts[""]["broken"] == sorted(ALLOWED)
    assert len(verdicts[""]["held"]) > 130


@pytest.mark.parametrize("name", UNSEEN)
def test_what_it_does_not_see_our_rules_find(
    files: dict[str, Path], verdicts: dict[str, dict[str, list[str]]], name: str
) -> None:
    assert verdicts[name] == verdicts[""]
    found = check_file(files[name], version="1.2").broken
    assert {one.rule for one in found} == UNSEEN[name].rules


def test_our_rules_have_nothing_against_it(files: dict[str, Path]) -> None:
    report = check_file(files[""])
    assert (report.version, report.rows, report.broken) == ("1.2", 400, ())
