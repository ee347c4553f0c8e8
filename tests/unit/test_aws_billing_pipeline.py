from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from shared.core.parse import load_pipeline
from shared.core.pipeline import resolve_plan
from shared.core.plan import Plan
from shared.core.run import Params
from shared.errors import Invalid
from shared.processors import PROCESSORS

ROOT = Path(__file__).parents[2]
FILE = "configs/cloud/aws/cost/billing.yml"
METADATA = {"source": "file:exports", "export_name": "costs"}


def plan(metadata: dict[str, Any], **parameters: Any) -> Plan:
    pipeline = load_pipeline(FILE, (ROOT / FILE).read_bytes(), PROCESSORS)
    assert (pipeline.address, pipeline.pipeline_id) == ("aws/cost/billing", "aws_cost_billing")
    return resolve_plan(
        pipeline,
        PROCESSORS,
        org="acme",
        project_id="p",
        dataset="acme_test",
        run_id="r1",
        params=Params(
            start_date=date(2025, 2, 1),
            end_date=date(2025, 2, 1),
            credential_id="main",
            parameters=parameters,
        ),
        credential_metadata=metadata,
    )


def test_it_extracts_and_then_consolidates() -> None:
    extract, consolidate = plan(METADATA).steps
    assert (extract.ps_type, extract.config["source"]) == ("cloud.billing_export", "file:exports")
    assert extract.config["max_reject_ratio"] == 0
    assert extract.config["allow_empty"] is False
    assert (consolidate.ps_type, consolidate.depends_on) == (
        "generic.procedure_executor",
        ("extract",),
    )


def test_a_run_may_accept_an_empty_month_once() -> None:
    assert plan(METADATA, allow_empty=True).steps[0].config["allow_empty"] is True


@pytest.mark.parametrize(
    ("metadata", "parameters"),
    [
        ({"source": "file:exports"}, {}),
        ({}, {}),
        (METADATA | {"export_name": "../other"}, {}),
        (METADATA | {"export_name": 7}, {}),
        (METADATA, {"reject_ratio": 2}),
        (METADATA, {"allow_emtpy": True}),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(
    metadata: dict[str, Any], parameters: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        plan(metadata, **parameters)
