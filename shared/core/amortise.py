"""Spreads an amount over days, exactly: in whole millionths, so that the days sum to the amount.

Of `total` millionths, the first k of n days have floor(total x k / n); a day has what its end has more
than its beginning. So each day can be told alone, and is the same whenever it is told; no two days
differ by more than a millionth. The sign stays outside: a refund is spread like the amount it gives back.
`configs/system/procedures/focus_from_subscriptions.sql` says the same in SQL.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

DIGITS = 6  # of a millionth, after the point; more than any currency has
_MILLION = 1_000_000


def rounded(amount: Fraction, exponent: int) -> Decimal:
    """The amount in units of 10^-exponent; half a unit goes away from zero, as on an invoice."""
    whole = (2 * abs(amount) * 10**exponent + 1) // 2
    return Decimal(whole if amount >= 0 else -whole).scaleb(-exponent)


def millionths(amount: Decimal) -> int:
    """The amount as a count of millionths. Raises ValueError for one that is none."""
    count = Fraction(amount) * _MILLION
    if count.denominator != 1:
        raise ValueError(f"{amount} has more than {DIGITS} digits after the point")
    return count.numerator


def share(amount: Decimal, days: int, day: int, *, rest: bool = False) -> Decimal:
    """What day `day` (from 0) of `days` has of the amount; with `rest`, what it and all later ones have."""
    total = millionths(amount)
    until = abs(total) if rest else _spent(abs(total), days, day + 1)
    count = until - _spent(abs(total), days, day)
    return Decimal(count if total >= 0 else -count).scaleb(-DIGITS)


def _spent(total: int, days: int, count: int) -> int:
    """What the first `count` days have."""
    return total * count // days
