"""Options of the protocol's histories.

pytest tests/unit/test_protocol.py --histories 20000    more of them than in CI
pytest tests/unit/test_protocol.py --history 4711       that one alone, as a failure names it
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--histories", type=int, help="how many random histories to play")
    parser.addoption("--history", type=int, help="the seed of the one history to play")
