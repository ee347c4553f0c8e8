"""How many examples a property test tries: its own number in `make test`, many more in `make fuzz`."""

from __future__ import annotations

from hypothesis import settings

_FUZZ = 10_000


def examples(count: int) -> int:
    """For `@settings(max_examples=examples(200))`."""
    wanted: int = settings().max_examples
    return wanted if wanted >= _FUZZ else count
