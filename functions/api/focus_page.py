"""The page on the FOCUS table, made of its columns, its views and the rules that judge it."""

from __future__ import annotations

from collections.abc import Iterator

from functions.api.markdown import table
from shared.core import focus
from shared.core.focus import FocusColumn
from shared.core.focus_rules import GroupRule, Rule, group_rules, row_rules

_HEAD = f"""# The FOCUS table

Every cost of an organization ends in one table, `{focus.TABLE}`, whatever its source. Its columns are those of FOCUS 1.4, the FinOps Foundation's specification of cost and usage, and the two that 1.4 removed; then ours; then those that a source adds, which begin with `x_`; then the lineage that the writer stamps. A row is a charge as its source has it: refunds, credits and zeros are rows, and currencies are never added up.

Periods are UTC, and their ends are exclusive. Decimals have 38 digits, 18 of them after the point.

## Views

"""
_PROVIDERS = """
In 1.2 and 1.3, `ProviderName` and `PublisherName` are the `ServiceProviderName` where a source does not say them.

## Columns

"""
_CHECK = """## Rules

`pipelines focus check` judges a table of the organization, and `pipelines focus check FILE` a CSV or Parquet file of any version since 1.0. Each rule is judged row by row. A `must` that is broken fails the check; a `should` is told. Times, numbers and JSON of a file are judged by how they are written, too.

Where FOCUS asks for a column only of some providers, a null in it breaks no `must`: what the provider of a row supports cannot be told from the row.

Costs that are a price times a quantity are compared with all their digits. What differs by no more than rounding the three to 18 digits after the point is equal. What differs from the 15th digit on is a `should`, since a source that computes in binary is no more exact.

"""
_MONEY = """## Money sources

`x_cost_basis` says how the money of a row is known. What one issuer invoices for a day is known from one of these only, else it would be counted twice; of several the first is kept. A plan's `agreed_price` is another spend than the usage beside it.

"""


def page() -> str:
    """Markdown."""
    return "".join(
        [
            _HEAD,
            *(
                f"- `{name}`: the columns of FOCUS {version} in its order, then all that begin with `x_`.\n"
                for name, version in focus.VIEWS.items()
            ),
            _PROVIDERS,
            table(("column", "type", "level", "versions", "null", "in words"), _columns()),
            "\nOurs, which every row has:\n\n",
            table(("column", "null", "in words", "values"), _own()),
            f"\n{_MONEY}",
            *(f"{place}. `{basis}`\n" for place, basis in enumerate(focus.CostBasis, start=1)),
            f"\n{_CHECK}",
            table(("rule", "", "versions", "in words"), _rules()),
        ]
    )


def _columns() -> Iterator[tuple[str, ...]]:
    for column in focus.columns().values():
        words = column.category
        if column.condition:
            words += f"; where the provider {_lower(column.condition)}"
        null = "yes" if column.nullable or not focus.required(column) else "no"
        yield f"`{column.name}`", column.type, column.level, _versions(column), null, words


def _versions(column: FocusColumn) -> str:
    return f"{column.since} to {column.until}" if column.until else f"since {column.since}"


def _own() -> Iterator[tuple[str, ...]]:
    for own in focus.OWN:
        values = ", ".join(f"`{value}`" for value in sorted(own.allowed))
        yield f"`{own.name}`", "yes" if own.nullable else "no", own.description, values


def _rules() -> Iterator[tuple[str, ...]]:
    """A rule whose words differ by version has a line for each."""
    every: list[Rule | GroupRule] = [*row_rules(), *group_rules()]
    lines: dict[tuple[str, str, str], list[str]] = {}
    for rule in sorted(every, key=lambda one: (one.id, one.since)):
        key = (f"`{rule.id}`", str(rule.severity), rule.sentence)
        lines.setdefault(key, []).append(
            f"{rule.since} to {rule.until}" if rule.until else f"since {rule.since}"
        )
    for (name, severity, sentence), spans in lines.items():
        yield name, severity, ", ".join(spans), sentence.replace("|", "\\|")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
