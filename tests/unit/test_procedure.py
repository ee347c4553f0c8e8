"""A procedure file is a header and one SELECT; what is wrong with it is told at once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path as FilePath

import pytest

from shared.core import focus
from shared.errors import ConfigError, Terminal
from shared.settings import ROOT
from shared.warehouse import Column, ColumnType, NullRule, Table, googlesql
from shared.warehouse.bigquery_procedure import create_procedure
from shared.warehouse.focus_table import focus_columns, focus_table
from shared.warehouse.procedure import RowRule, bind, parse_procedure, proof
from tests.support.statements import faults as faults_of_sql

GOOD = """/*
procedure: focus_from_aws
description: AWS' rows as rows of the FOCUS table.
output: aws_costs
totals: [BilledCost]
currency: BillingCurrency
parameters: {issuer: STRING, since: DATE}
columns:
  BilledCost: decimal finding
  BillingCurrency: text
  InvoiceIssuerName: text
*/
-- a remark
WITH source AS (
  SELECT * FROM aws_focus_costs
  WHERE x_org_slug = @org_slug AND x_pipeline_run_date IN UNNEST(@run_dates)
    AND x_pipeline_run_date >= @since
)
SELECT
  x_pipeline_run_date AS _run_date,
  BilledCost,
  BillingCurrency,
  COALESCE(InvoiceIssuerName, @issuer) AS InvoiceIssuerName
FROM source
"""
FILE = "configs/system/procedures/focus_from_aws.sql"


def faults(text: str, file: str = FILE) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_procedure(text, file)
    return [str(fault) for fault in caught.value.faults]


def test_a_procedure_says_what_it_writes_and_what_it_needs() -> None:
    made = parse_procedure(GOOD, FILE)
    assert made.output == Table(
        "aws_costs",
        (
            Column("BilledCost", ColumnType.DECIMAL, NullRule.FINDING),
            Column("BillingCurrency"),
            Column("InvoiceIssuerName"),
        ),
    )
    assert made.parameters == {"issuer": "STRING", "since": "DATE"}
    assert (made.totals, made.currency, made.rows) == (
        ("BilledCost",),
        "BillingCurrency",
        RowRule.SAME,
    )
    assert made.version.startswith("focus_from_aws@")
    assert made.version != parse_procedure(GOOD + "\n", FILE).version


def test_it_reads_the_organizations_tables_with_its_parameters() -> None:
    sql = googlesql.to_duckdb(parse_procedure(GOOD, FILE).select, "acme_dev")
    assert '"acme_dev"."aws_focus_costs"' in sql
    assert "LIST_CONTAINS($run_dates, x_pipeline_run_date)" in sql
    assert 'FROM "acme_dev"."source"' not in sql


def test_the_proof_sums_the_source_and_nothing_else() -> None:
    sql = googlesql.to_duckdb(proof(parse_procedure(GOOD, FILE)), "acme_dev")
    assert "SUM(" in sql
    assert "COALESCE(InvoiceIssuerName" not in sql


def test_all_faults_of_a_header_are_told_with_their_lines() -> None:
    text = GOOD.replace("output: aws_costs", "outptu: aws_costs")
    text = text.replace("BillingCurrency: text", "BillingCurrency: txt")
    found = faults(text)
    assert any(fault.startswith(f"{FILE}:4:1") and "outptu" in fault for fault in found)
    assert any(f"{FILE}:10:" in fault for fault in found)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("AWS' rows", "AWS' rows\nextra: 1", "extra"),
        ("procedure: focus_from_aws", "procedure: focus", "named as its file"),
        ("BilledCost: decimal finding", "BilledCost: text", "not a decimal column"),
        ("currency: BillingCurrency", "currency: Currency", "is not a column"),
        ("  BillingCurrency: text", "  x_run_id: text", "stamped by the writer"),
        ("issuer: STRING", "org_slug: STRING", "given by the writer"),
        ("issuer: STRING", "other: STRING", "declared but not used"),
        ("@issuer", "@issuers", "did you mean"),
        ("  BilledCost,", "  BilledCost AS BilledCosts,", "has no column 'BilledCost'"),
        ("  BilledCost,", "  BilledCost, BilledCost,", "twice"),
        ("WITH source AS", "WITH input AS", "WITH source AS"),
        ("FROM aws_focus_costs", "FROM other.aws_focus_costs", "names a dataset"),
        ("FROM aws_focus_costs", "FROM `p.other.aws_focus_costs`", "names a dataset"),
        ("FROM aws_focus_costs", "FROM read_csv('/etc/passwd')", "table function"),
        ("  BilledCost,", "  BilledCost * CAST(1 AS FLOAT64) AS BilledCost,", "FLOAT64"),
        ("  BilledCost,", "  BilledCost * RAND() AS BilledCost,", "not the same the next time"),
        (">= @since", ">= CURRENT_DATE() AND @since IS NOT NULL", "not the same the next time"),
        ("@issuer)", "read_text(@issuer))", "READ_TEXT is not a function"),
        ("-- a remark", "DELETE FROM aws_costs WHERE TRUE;", "one SELECT"),
        ("FROM source\n", "FROM source; DROP TABLE aws_costs", "one SELECT"),
        ("FROM source\n", "FROM WHERE source\n", "line 2"),
        ("= @org_slug", "= ?", "use @name"),
        ("= @org_slug", "= @@project_id", "system variable"),
    ],
)
def test_what_a_procedure_may_not_do_is_a_fault(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    found = faults(GOOD.replace(old, new, 1))
    assert any(fault in text for text in found), found


def test_a_file_without_header_is_a_fault() -> None:
    assert faults("SELECT 1") == [f"{FILE}:1:1 must open with a /* header */ in YAML"]


def test_arguments_get_the_types_that_were_declared() -> None:
    made = parse_procedure(GOOD, FILE)
    assert bind(made, {"issuer": "AWS", "since": "2024-09-01"}) == {
        "issuer": "AWS",
        "since": date(2024, 9, 1),
    }
    with pytest.raises(Terminal) as caught:
        bind(made, {"isuer": "AWS", "since": "yesterday"})
    assert caught.value.code == "arguments"
    for part in ("'isuer' is not a parameter", "'issuer' is missing", "'since' is not a DATE"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "bound"),
    [
        ("INT64", 5, 5),
        ("BOOL", True, True),
        ("BIGNUMERIC", "1.25", Decimal("1.25")),
        ("TIMESTAMP", "2024-09-01T00:00:00Z", datetime(2024, 9, 1, tzinfo=UTC)),
    ],
)
def test_each_parameter_type_takes_its_values(kind: str, given: str, bound: object) -> None:
    made = parse_procedure(GOOD.replace("issuer: STRING", f"issuer: {kind}"), FILE)
    assert bind(made, {"issuer": given, "since": "2024-09-01"})["issuer"] == bound


@pytest.mark.parametrize(
    ("kind", "given"),
    [("INT64", True), ("INT64", "5"), ("BOOL", 1), ("BIGNUMERIC", "NaN"), ("STRING", 1)]
    + [("TIMESTAMP", "2024-09-01T00:00:00"), ("BIGNUMERIC", "x")],
)
def test_a_value_of_another_type_is_refused(kind: str, given: str) -> None:
    made = parse_procedure(GOOD.replace("issuer: STRING", f"issuer: {kind}"), FILE)
    with pytest.raises(Terminal, match="'issuer' is not a"):
        bind(made, {"issuer": given, "since": "2024-09-01"})


def test_bigquery_gets_one_transaction_that_judges_before_it_changes_anything() -> None:
    text = create_procedure(parse_procedure(GOOD, FILE), "acme_prod")
    head, _, body = text.partition("\nBEGIN\n")
    assert head.startswith("CREATE PROCEDURE IF NOT EXISTS `acme_prod`.`focus_from_aws_")
    assert "in_run_dates ARRAY<DATE>" in head
    assert "in_since DATE" in head
    assert "@" not in body.replace("@@error.message", "")
    steps = [
        *("BEGIN TRANSACTION", "CREATE TEMP TABLE w_output", "ROLLBACK TRANSACTION"),
        *("SET out_verdict = CASE", "'superseded'", "'moved'", "'outside_covers'", "'unbalanced'"),
        *("IF out_verdict = 'committed'", "UPDATE `acme_prod`.`_turns`", "DELETE FROM", "INSERT"),
        *("_rejects", "DELETE FROM `acme_prod`.`_loads`", "INSERT INTO `acme_prod`.`_loads`"),
        *("END IF", "COMMIT TRANSACTION", "SET out_held"),
    ]
    places = [body.index(steps[0])]
    for step in steps[1:]:
        places.append(body.index(step, places[-1]))
    assert body.count("COMMIT TRANSACTION") == 1


SHIPPED = sorted((ROOT / "configs/system/procedures").glob("*.sql"))
# One that fills the FOCUS table, and names no column but its own.
FOCUS = f"""/*
procedure: focus_from_test
description: Rows of a test as rows of the FOCUS table.
output: focus_costs
totals: [BilledCost]
currency: BillingCurrency
columns: {{x_Own: json}}
*/
WITH source AS (SELECT * FROM test_costs)
SELECT {", ".join(column.name for column in focus_columns())},
  x_Own, x_pipeline_run_date AS _run_date
FROM source
"""


def test_a_procedure_of_the_focus_table_names_only_the_columns_it_adds() -> None:
    made = parse_procedure(FOCUS, "focus_from_test.sql")
    assert made.output == focus_table((Column("x_Own", ColumnType.JSON),))
    assert made.output.columns == (*focus_columns(), Column("x_Own", ColumnType.JSON))
    known = {column.name: column for column in focus_columns()}
    assert list(known)[:67] == list(focus.columns())
    assert known["BilledCost"][1:3] == (ColumnType.DECIMAL, NullRule.FINDING)
    assert known["ProviderName"].null is NullRule.ALLOWED
    assert known["x_row_id"].null is NullRule.FINDING


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ("{Own: json}", "'Own' must begin with 'x_'"),
        ("{x_Own: json, BilledCost: decimal}", "'BilledCost' is one of the FOCUS table already"),
        ("{x_Own: json, x_ROW_ID: text}", "'x_ROW_ID' is one of the FOCUS table already"),
        ("{x_Own: json, x_run_id: text}", "stamped by the writer"),
    ],
)
def test_what_it_adds_is_its_own(columns: str, fault: str) -> None:
    found = faults(FOCUS.replace("{x_Own: json}", columns), "focus_from_test.sql")
    assert any(fault in text for text in found), found


def test_it_has_to_select_every_column_of_the_focus_table() -> None:
    found = faults(FOCUS.replace("ChargeClass, ", ""), "focus_from_test.sql")
    assert found == ["focus_from_test.sql the SELECT has no column 'ChargeClass'"]


def test_sources_that_add_a_column_of_one_name_add_the_same_one() -> None:
    added: dict[str, ColumnType] = {}
    for path in SHIPPED:
        output = parse_procedure(path.read_text(), path.name).output
        if output.name == focus.TABLE:
            for column in output.columns:
                assert added.setdefault(column.name, column.type) is column.type, column.name


@pytest.mark.parametrize("path", SHIPPED)
def test_what_is_shipped_is_googlesql_of_ours(path: FilePath) -> None:
    shipped = parse_procedure(path.read_text(), path.name)
    assert faults_of_sql(create_procedure(shipped, "acme_prod")) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("COMMIT TRANSACTION;", "COMMIT WORK;"),
        ("SELECT", "SELEC"),
        ("COALESCE(", "IFNULL_OF_DUCKDB("),
        ("CREATE TEMP TABLE w_held", "CREATE OR REPLACE TABLE w_held"),
        ("SET taken_at = in_committed_at, run_id = in_run_id WHERE TRUE", "SET run_id = in_run_id"),
        (f"NUMERIC '{2**64}'", f"{2**64}"),
        ("AS BIGNUMERIC)", "AS FLOAT64)"),
        ("in_since DATE", "in_since DECIMAL(38, 18)"),
    ],
)
def test_what_is_not_googlesql_is_found(old: str, new: str) -> None:
    text = create_procedure(parse_procedure(GOOD, FILE), "acme_prod")
    assert faults_of_sql(text) == []
    assert old in text
    assert faults_of_sql(text.replace(old, new)) != []
