"""What every test may rely on."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is no fault of the code: time is measured in benchmarks/, never asserted here.
settings.register_profile("test", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=10_000)
settings.load_profile("test")
