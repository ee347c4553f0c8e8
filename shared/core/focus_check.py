"""Checks FOCUS data: which rules stand for what is there, the queries that judge it, and what they found.

A query answers for all rules that judge one row at once, so that a million rows are read once for them,
and once for each rule on rows together. Who asks the queries is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from shared.core import focus
from shared.core.focus import FocusType, Level
from shared.core.focus_rules import GroupRule, Rule, Severity, group_rules, row_rules
from shared.core.record import Document

SAMPLES = 5
CUSTOM = "x_"

R = TypeVar("R", bound=Rule | GroupRule)
_READ = {name for name, column in focus.columns().items() if column.type is not FocusType.TEXT}
Ask: TypeAlias = Callable[[str], Sequence[Sequence[Any]]]


class Broken(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A rule that `rows` of the rows break; `samples` names some of them, or groups or columns."""

    rule: str
    severity: Severity
    columns: tuple[str, ...]
    rows: int
    sentence: str
    samples: tuple[str, ...]


class Report(Document, frozen=True, kw_only=True, omit_defaults=False):
    """What a check found: so many `rules` were judged, and those of `broken` do not hold.

    It has `passed` when no `must` is broken.
    """

    version: str
    rows: int
    rules: int
    passed: bool
    broken: tuple[Broken, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked: `rows`, a SELECT (GoogleSQL), with these columns.

    `name` is the SQL of what a row is known by, as a text. `texts`: beside each column of the
    specification it has `t_{column}`, the text as it was delivered, null where the cell is.
    `mistyped` columns are of a wrong type; no rule reads them.
    """

    rows: str
    columns: tuple[str, ...]
    version: str
    name: str
    texts: bool = False
    mistyped: Mapping[str, str] = field(default_factory=dict)


def check(subject: Subject, ask: Ask) -> Report:
    """Judges every rule that stands for the subject. `ask` answers a SELECT."""
    rules = tuple(_standing(subject, row_rules()))
    groups = tuple(_standing(subject, group_rules()))
    counts = [int(count or 0) for count in ask(_counting(subject, rules))[0]]
    total, found = counts[0], dict(zip(rules, counts[1:], strict=True))
    broken = [rule for rule, count in found.items() if count]
    samples = _samples(ask(_sampling(subject, broken))) if broken else {}
    reported = [
        *_header(subject, total),
        *(_found(rule, found[rule], samples.get(rule.id, ())) for rule in broken),
    ]
    for group in groups:
        answer = ask(_grouping(subject, group))
        rows = sum(int(row[1]) for row in answer[:1])
        if rows:
            reported.append(_found(group, rows, tuple(str(row[0]) for row in answer)))
    reported.sort(key=lambda each: (each.severity, each.rule))
    return Report(
        version=subject.version,
        rows=total,
        rules=len(rules) + len(groups),
        passed=not any(each.severity is Severity.MUST for each in reported),
        broken=tuple(reported),
    )


def _standing(subject: Subject, rules: Iterable[R]) -> Iterator[R]:
    there = set(subject.columns) - subject.mistyped.keys()
    for rule in rules:
        in_version = rule.since <= subject.version and (
            rule.until is None or subject.version <= rule.until
        )
        readable = subject.texts or not (isinstance(rule, Rule) and rule.texts)
        if in_version and readable and there.issuperset(rule.columns):
            yield rule


def _counting(subject: Subject, rules: Sequence[Rule]) -> str:
    counts = ["COUNT(*)"]
    for rule in rules:
        count = f"COUNTIF({_broken(subject, rule)})"
        if rule.unless_empty is not None:
            count = f"IF(COUNT({rule.unless_empty}) = 0, 0, {count})"
        counts.append(count)
    listed = ", ".join(f"{count} AS c{place}" for place, count in enumerate(counts))
    return f"WITH checked AS ({subject.rows}) SELECT {listed} FROM checked"


def _broken(subject: Subject, rule: Rule) -> str:
    """The rule's condition. A cell that cannot be read is told once, by the rule of how it is written."""
    unread = [
        f"(t_{name} IS NOT NULL AND {name} IS NULL)"
        for name in rule.columns
        if subject.texts and not rule.texts and name in _READ
    ]
    return f"({rule.broken}) AND NOT ({' OR '.join(unread)})" if unread else f"({rule.broken})"


def _sampling(subject: Subject, rules: Sequence[Rule]) -> str:
    """Few rows of each rule, the same ones each time."""
    parts = " UNION ALL ".join(
        f"(SELECT '{rule.id}' AS rule, {subject.name} AS name FROM checked WHERE {rule.broken} "
        f"ORDER BY LENGTH(name), name LIMIT {SAMPLES})"
        for rule in rules
    )
    return f"WITH checked AS ({subject.rows}) SELECT rule, name FROM ({parts}) ORDER BY rule, LENGTH(name), name"


def _grouping(subject: Subject, rule: GroupRule) -> str:
    """Few groups that break the rule; each has the number of rows in all of them beside it."""
    by = ", ".join(rule.by)
    return (
        f"WITH checked AS ({subject.rows}), alike AS (SELECT {rule.sample} AS name, COUNT(*) AS found "
        f"FROM checked WHERE {rule.where} GROUP BY {by} HAVING {rule.broken}) "
        f"SELECT name, SUM(found) OVER () FROM alike ORDER BY name LIMIT {SAMPLES}"
    )


def _samples(answer: Sequence[Sequence[Any]]) -> dict[str, tuple[str, ...]]:
    samples: dict[str, tuple[str, ...]] = {}
    for rule, name in answer:
        if name is not None:
            samples[rule] = (*samples.get(rule, ()), str(name))
    return samples


def _found(rule: Rule | GroupRule, rows: int, samples: tuple[str, ...]) -> Broken:
    return Broken(
        rule=rule.id,
        severity=rule.severity,
        columns=rule.columns,
        rows=rows,
        sentence=rule.sentence,
        samples=samples,
    )


def _header(subject: Subject, rows: int) -> Iterator[Broken]:
    """What is wrong with the columns, of which every row has part."""
    must, should = Severity.MUST, Severity.SHOULD
    there = set(subject.columns)
    known = focus.columns()
    for name, column in known.items():
        if column.in_version(subject.version) and name not in there:
            sentence = f"The column {name} is {column.level} in FOCUS {subject.version}."
            if column.level is not Level.CONDITIONAL:
                severity = must if column.level is Level.MANDATORY else should
                yield _of_columns(f"{name}.column", severity, (name,), rows, sentence)
    for name, kind in subject.mistyped.items():
        sentence = f"{name} is a column of type {known[name].type}, not of {kind}."
        yield _of_columns(f"{name}.type", must, (name,), rows, sentence)
    custom = [name for name in subject.columns if name not in known]
    foreign = [name for name in custom if not name.startswith(CUSTOM)]
    if foreign:
        sentence = f"A column that FOCUS does not define begins with {CUSTOM}."
        yield _of_columns("columns.custom", must, foreign, rows, sentence)
    last = max((subject.columns.index(name) for name in there & known.keys()), default=0)
    between = [name for name in custom if subject.columns.index(name) < last]
    if between:
        sentence = "A provider's own columns stand after those of FOCUS."
        yield _of_columns("columns.order", should, between, rows, sentence)


def _of_columns(
    rule: str, severity: Severity, columns: Sequence[str], rows: int, sentence: str
) -> Broken:
    return Broken(
        rule=rule,
        severity=severity,
        columns=tuple(columns),
        rows=rows,
        sentence=sentence,
        samples=tuple(columns[:SAMPLES]),
    )
