"""Says whether a cron expression can be meant: five fields in range, and a day that exists.

Only what every cron understands (unix-cron): `*`, numbers, names, lists, ranges and steps. When it
is due is another matter.
"""

from __future__ import annotations

from shared.core.nearmiss import clipped, did_you_mean, listed

SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("weekday", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)
_LONGEST_DAY = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def five_fields(expression: str) -> str:
    """The expression with a shorthand (`@daily`) written out."""
    return SHORTHANDS.get(expression.strip(), expression.strip())


def cron_fault(expression: str) -> str | None:
    """What is wrong with the expression, or None."""
    if expression.strip().startswith("@") and expression.strip() not in SHORTHANDS:
        near = did_you_mean(expression.strip(), SHORTHANDS)
        return f"{clipped(expression)} is no shorthand{near}; known: {listed(SHORTHANDS)}"
    fields = five_fields(expression).split()
    if len(fields) != len(_FIELDS):
        wanted = " ".join(name for name, *_ in _FIELDS)
        return f"{clipped(expression)} has {len(fields)} fields, a cron expression 5 ({wanted})"
    values: list[set[int]] = []
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        try:
            values.append(_field(text, low, high, names))
        except ValueError as error:
            return f"the {name} {clipped(text)} {error}"
    _, _, days, months, _ = values
    if fields[4] == "*" and all(min(days) > _LONGEST_DAY[month - 1] for month in months):
        return f"{clipped(expression)} never comes: there is no such day"
    return None


def zone_fault(name: str) -> str | None:
    """What is wrong with the name of a time zone, or None."""
    import zoneinfo  # noqa: PLC0415  # 4 ms, for the few files that name a zone

    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; not a name at all; a folder of zones
        near = did_you_mean(name, zoneinfo.available_timezones())
        return f"{clipped(name)} is no IANA time zone{near}"
    return None


def _field(text: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    """The numbers that a field allows. Raises ValueError with the end of a sentence."""
    allowed: set[int] = set()
    for item in text.split(","):
        span, slash, step = item.partition("/")
        if slash and not (_is_number(step) and int(step) > 0):
            raise ValueError("must have a number above 0 after '/'")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        else:
            begin = _number(first, low, high, names)
            end = _number(last, low, high, names) if dash else begin
            if slash and not dash:
                end = high
        if begin > end:
            raise ValueError("is a range that runs backwards")
        allowed.update(range(begin, end + 1, int(step) if slash else 1))
    return allowed


def _number(text: str, low: int, high: int, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not _is_number(text) or not low <= int(text) <= high:
        also = f" or {next(iter(names))}…" if names else ""
        raise ValueError(f"must be *, or of {low} to {high}{also}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4
