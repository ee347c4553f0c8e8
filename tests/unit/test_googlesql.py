"""Which tables a query may read: the organization's own, and its CTEs where they can be seen."""

from __future__ import annotations

import pytest

from shared.warehouse import googlesql


def tables(sql: str) -> str:
    parsed = googlesql.parse(sql)
    assert parsed.tree is not None, parsed.faults
    return googlesql.to_duckdb(parsed.tree, "acme_dev")


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("SELECT * FROM a", ['"acme_dev"."a"']),
        ("WITH b AS (SELECT * FROM a) SELECT * FROM b", ['FROM "acme_dev"."a"', "FROM b"]),
        ("WITH b AS (SELECT * FROM a), c AS (SELECT * FROM b) SELECT * FROM c", ["FROM b"]),
        ("WITH b AS (SELECT 1 AS x) SELECT * FROM (SELECT * FROM (SELECT * FROM b))", ["FROM b"]),
        ("WITH B AS (SELECT 1 AS x) SELECT * FROM b", ["FROM b"]),
        ("WITH b AS (SELECT 1 AS x) SELECT 1 FROM a UNION ALL SELECT x FROM b", ["FROM b"]),
    ],
)
def test_a_table_is_the_organizations_unless_it_is_a_cte(sql: str, read: list[str]) -> None:
    for text in read:
        assert text in tables(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM duckdb_tables, (WITH duckdb_tables AS (SELECT 1 AS x) SELECT x FROM a)",
        "SELECT (WITH duckdb_tables AS (SELECT 1 AS x) SELECT x FROM a) FROM duckdb_tables",
        "WITH b AS (SELECT * FROM duckdb_tables), duckdb_tables AS (SELECT 1 AS x) SELECT * FROM b",
    ],
)
def test_a_cte_hides_no_table_where_it_cannot_be_seen(sql: str) -> None:
    assert '"acme_dev"."duckdb_tables"' in tables(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM `/etc/passwd`, (WITH `/etc/passwd` AS (SELECT 1 AS x) SELECT 1)",
        "WITH `x.csv` AS (SELECT 1 AS x) SELECT * FROM `x.csv`",
    ],
)
def test_a_name_that_is_none_is_refused_for_tables_and_ctes(sql: str) -> None:
    assert googlesql.parse(sql).tree is None
