"""Finds the word that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 80  # comparing is quadratic; nobody mistypes a page


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'extract'?)` to append to a fault, or nothing when no known word is near."""
    if len(word) > _LONGEST:
        return ""
    words = sorted(known)
    folded = {name.lower(): name for name in reversed(words)}
    near = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""


def clipped(text: str, limit: int = 60) -> str:
    """`text` quoted for a fault, on one line and not longer than a reader wants."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def listed(words: Iterable[str], limit: int = 30) -> str:
    """The known words, for a fault; the first of them when there are very many."""
    known = sorted(words)
    more = f", … ({len(known)} in all)" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more
