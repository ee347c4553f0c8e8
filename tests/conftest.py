"""What every test may rely on."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fuzz", max_examples=10_000, deadline=None)
