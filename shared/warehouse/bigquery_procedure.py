"""A procedure as BigQuery's `CREATE PROCEDURE`, in the organization's dataset: one transaction, one verdict.

What it selects goes into a temporary table first. Up to there nothing was changed, so a failure is the
procedure's own; then fence, covers and balance are judged; and only what passes all of them replaces the
slices, so that a failure from there on is another transaction in the way.
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

from shared.core.lineage import LINEAGE_COLUMNS
from shared.warehouse import ColumnType, NullRule, googlesql
from shared.warehouse.balance import Sums
from shared.warehouse.bigquery_ledger import COMMITTED, MOVED, SUPERSEDED, newer
from shared.warehouse.bigquery_sink import read, read_back
from shared.warehouse.bigquery_tables import TURNS, quoted
from shared.warehouse.ledger import LOADS
from shared.warehouse.procedure import RUN_DATE, Procedure, RowRule, proof
from shared.warehouse.proof import ReadBack

FAILED = "procedure"  # its SELECT
OUTSIDE = "outside_covers"
UNBALANCED = "unbalanced"

# Its parameters have the prefix `in_`, since a name that is also a column would mean the column.
PREFIX = "in_"
GIVEN = {
    "org_slug": "STRING",
    "pipeline_id": "STRING",
    "credential_id": "STRING",
    "run_dates": "ARRAY<DATE>",
    "run_id": "STRING",
    "run_created_at": "TIMESTAMP",
    "step_id": "STRING",
    "attempt": "INT64",
    "source_version": "STRING",
    "source_at": "TIMESTAMP",
    "ingested_at": "TIMESTAMP",
    "ingested": "ARRAY<DATE>",  # the partitions that hold the slices now
    "committed_at": "TIMESTAMP",
}
_CASTS = {
    ColumnType.TEXT: "STRING",
    ColumnType.DECIMAL: "BIGNUMERIC",
    ColumnType.INTEGER: "INT64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.DATE: "DATE",
    ColumnType.TIMESTAMP: "TIMESTAMP",
}
# The types of a SELECT's column that become a table's without losing anything.
FITS = {
    ColumnType.TEXT: {"STRING"},
    ColumnType.DECIMAL: {"BIGNUMERIC", "NUMERIC", "INTEGER"},
    ColumnType.INTEGER: {"INTEGER"},
    ColumnType.BOOLEAN: {"BOOLEAN"},
    ColumnType.DATE: {"DATE"},
    ColumnType.TIMESTAMP: {"TIMESTAMP"},
    ColumnType.JSON: {"JSON"},
}
_KEY = (
    "x_org_slug = in_org_slug AND x_pipeline_id = in_pipeline_id "
    "AND x_credential_id = in_credential_id AND x_pipeline_run_date IN UNNEST(in_run_dates)"
)
# NUMERIC, since an INT64 ends at half of it.
_DIGITS, _HALF = f"NUMERIC '{2**64}'", f"NUMERIC '{2**32}'"


def parameter_types(procedure: Procedure) -> dict[str, str]:
    """The parameters of the routine, in order and without their prefix."""
    return {**GIVEN, **procedure.parameters}


def routine(procedure: Procedure) -> str:
    """Its name in BigQuery. A changed procedure is another routine: whoever calls one gets that one."""
    return procedure.version.replace("@", "_")


def create_procedure(procedure: Procedure, dataset: str) -> str:
    """The statement that makes the routine, if it is not there.

    Not in strict mode, which looks for its tables when it is made: there may be none yet.
    """
    table = quoted(dataset, procedure.output.name)
    loads, rejects = quoted(dataset, "_loads"), quoted(dataset, "_rejects")
    own = f"table_name = '{procedure.output.name}'"
    marker = f"{own} AND {_KEY}"
    types = parameter_types(procedure)
    signature = [f"{PREFIX}{name} {kind}" for name, kind in types.items()]
    signature += [f"OUT out_{name} STRING" for name in ("verdict", "held", "source")]
    names = [quoted(column.name) for column in procedure.output.columns]
    verdict = f"""CASE
    WHEN EXISTS (SELECT 1 FROM {loads} WHERE {marker} AND {newer(PREFIX)}) THEN '{SUPERSEDED}'
    WHEN EXISTS (SELECT 1 FROM {loads} WHERE {marker} AND ingestion_date NOT IN UNNEST(in_ingested)) THEN '{MOVED}'
    WHEN (SELECT COALESCE(MAX(source_at), in_source_at) FROM {loads}
      WHERE NOT {own} AND {_KEY}) != in_source_at THEN '{MOVED}'
    WHEN EXISTS (SELECT 1 FROM w_output WHERE x_pipeline_run_date IS NULL
      OR x_pipeline_run_date NOT IN UNNEST(in_run_dates)) THEN '{OUTSIDE}'
    WHEN EXISTS ({_unbalanced(procedure)}) THEN '{UNBALANCED}'
    ELSE '{COMMITTED}'
  END"""
    return f"""CREATE PROCEDURE IF NOT EXISTS {quoted(dataset, routine(procedure))}(
  {f",{chr(10)}  ".join(signature)}
)
OPTIONS (strict_mode = FALSE, description = {_literal(f"{procedure.description} ({procedure.version})")})
BEGIN
  BEGIN TRANSACTION;
  BEGIN
    CREATE TEMP TABLE w_output AS
{_output(procedure, dataset)};
    CREATE TEMP TABLE w_held AS
    {_held(procedure)};
    CREATE TEMP TABLE w_source AS
{_source(procedure, dataset)};
  EXCEPTION WHEN ERROR THEN
    ROLLBACK TRANSACTION;
    SET out_verdict = '{FAILED}';
    SET out_held = @@error.message;
    RETURN;
  END;
  SET out_verdict = {verdict};
  IF out_verdict = '{COMMITTED}' THEN
    UPDATE {quoted(dataset, TURNS)} SET taken_at = in_committed_at, run_id = in_run_id WHERE TRUE;
    DELETE FROM {table} WHERE {_KEY} AND x_ingestion_date IN UNNEST(in_ingested);
    INSERT INTO {table} ({", ".join([*names, *LINEAGE_COLUMNS])})
    SELECT {", ".join(names)}, in_org_slug, in_pipeline_id, in_credential_id, x_pipeline_run_date,
      in_run_id, in_ingested_at, DATE(in_ingested_at)
    FROM w_output;
    DELETE FROM {rejects} WHERE {marker};
    DELETE FROM {loads} WHERE {marker};
    INSERT INTO {loads} ({", ".join(field.name for field in LOADS)})
{_marks(procedure)};
  END IF;
  COMMIT TRANSACTION;
  SET out_held = (SELECT TO_JSON_STRING(ARRAY_AGG(STRUCT({_told(procedure)}))) FROM w_held);
  SET out_source = (SELECT TO_JSON_STRING(ARRAY_AGG(STRUCT({_told_source(procedure)}))) FROM w_source);
END;
"""


def answered(procedure: Procedure, held: str | None, source: str | None) -> tuple[Sums, ReadBack]:
    """What the routine says of its input, and of its output."""
    totals = range(len(procedure.totals))
    watched = _watched(procedure)
    rows: list[tuple[Any, ...]] = [
        (
            date.fromisoformat(row["run_date"]) if row["run_date"] else date.min,
            row["unit"],
            row["found"],
            row["digest"],
            *(row[f"sum_{place}"] for place in totals),
            *(row[f"nulls_{place}"] for place in range(len(watched))),
        )
        for row in json.loads(held or "null") or ()
    ]
    given = {
        row["unit"]: (int(row["found"]), [Decimal(row[f"sum_{place}"]) for place in totals])
        for row in json.loads(source or "null") or ()
    }
    return given, read(rows, len(totals), watched)


def _output(procedure: Procedure, dataset: str) -> str:
    columns = []
    for column in procedure.output.columns:
        name = quoted(column.name)
        cast = _CASTS.get(column.type)
        columns.append(f"CAST({name} AS {cast}) AS {name}" if cast else name)
    select = googlesql.to_bigquery(procedure.select, dataset, PREFIX.__add__)
    return (
        f"    SELECT {', '.join(columns)}, {RUN_DATE} AS x_pipeline_run_date FROM (\n"
        f"{_indented(select)}\n    )"
    )


def _held(procedure: Procedure) -> str:
    return read_back(
        "FROM w_output",
        sorted(column.name for column in procedure.output.columns),
        totals=procedure.totals,
        currency=procedure.currency,
        watched=_watched(procedure),
    )


def _source(procedure: Procedure, dataset: str) -> str:
    """Rows and totals of the input; a null and an empty currency are one."""
    counted = googlesql.to_bigquery(proof(procedure), dataset, PREFIX.__add__)
    sums = "".join(
        f", SUM({quoted(name)}) AS sum_{place}" for place, name in enumerate(procedure.totals)
    )
    return (
        f"    SELECT COALESCE(_currency, '') AS unit, SUM(_rows) AS found{sums} FROM (\n"
        f"{_indented(counted)}\n    ) GROUP BY unit"
    )


def _unbalanced(procedure: Procedure) -> str:
    """Currencies whose rows or money in the output are not those of the input."""
    compared = [f"sum_{place}" for place in range(len(procedure.totals))]
    sums = "".join(f", SUM({name}) AS {name}" for name in compared)
    if procedure.rows is RowRule.SAME:
        compared.append("found")
    differ = [f"COALESCE(given.{name}, 0) != COALESCE(there.{name}, 0)" for name in compared]
    return (
        "SELECT 1 FROM w_source AS given "
        f"FULL JOIN (SELECT unit, SUM(found) AS found{sums} FROM w_held GROUP BY unit) AS there "
        f"ON given.unit = there.unit WHERE {' OR '.join(differ) or 'FALSE'}"
    )


def _marks(procedure: Procedure) -> str:
    """The markers of the covered slices: rows, totals and checksum of each."""
    amounts = [
        f"SELECT run_date, {place} AS place, '{name}' AS `column`, unit AS currency, "
        f"CAST(COALESCE(sum_{place}, 0) AS STRING) AS amount FROM w_held"
        for place, name in enumerate(procedure.totals)
    ]
    if not amounts:
        nothing = "run_date, 0 AS place, '' AS `column`, unit AS currency, '0' AS amount"
        amounts = [f"SELECT {nothing} FROM w_held WHERE FALSE"]
    total = (
        "STRUCT(`column`, currency, amount AS source, amount AS loaded, '0' AS rejected, "
        "'0' AS residue, 0 AS rounded)"
    )
    # As the sums of a load are told: modulo 2^64, sixteen hexadecimal digits.
    digest = f"MOD(MOD(COALESCE(held.digest, 0), {_DIGITS}) + {_DIGITS}, {_DIGITS})"
    low = f"MOD({digest}, {_HALF})"
    high = f"({digest} - {low}) / {_HALF}"
    return f"""    SELECT in_org_slug, in_pipeline_id, in_credential_id, covered, '{procedure.output.name}',
      in_run_id, in_step_id, in_attempt, in_run_created_at, in_source_version, in_source_at,
      COALESCE(held.found, 0), 0, PARSE_JSON(COALESCE(money.totals, '[]')),
      FORMAT('%08x%08x', CAST({high} AS INT64), CAST({low} AS INT64)),
      in_committed_at, DATE(in_ingested_at)
    FROM UNNEST(in_run_dates) AS covered
    LEFT JOIN (
      SELECT run_date, SUM(found) AS found, SUM(digest) AS digest FROM w_held GROUP BY run_date
    ) AS held ON held.run_date = covered
    LEFT JOIN (
      SELECT run_date, TO_JSON_STRING(ARRAY_AGG({total} ORDER BY place, currency)) AS totals
      FROM ({" UNION ALL ".join(amounts)}) GROUP BY run_date
    ) AS money ON money.run_date = covered"""


def _told(procedure: Procedure) -> str:
    """The fields of the answer: what `read` wants, sums as texts."""
    sums = ["digest", *(f"sum_{place}" for place in range(len(procedure.totals)))]
    nulls = [f"nulls_{place}" for place in range(len(_watched(procedure)))]
    plain = [f"{name} AS {name}" for name in ("run_date", "unit", "found", *nulls)]
    return ", ".join([*plain, *(f"CAST({name} AS STRING) AS {name}" for name in sums)])


def _told_source(procedure: Procedure) -> str:
    sums = [f"sum_{place}" for place in range(len(procedure.totals))]
    texts = [f"CAST(COALESCE({name}, 0) AS STRING) AS {name}" for name in sums]
    return ", ".join(["unit AS unit", "found AS found", *texts])


def _watched(procedure: Procedure) -> list[str]:
    return [c.name for c in procedure.output.columns if c.null is NullRule.FINDING]


def _indented(sql: str) -> str:
    return "\n".join(f"      {line}" for line in sql.splitlines())


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ")
    return f"'{escaped}'"
