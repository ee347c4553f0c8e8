"""Compiles the catalog: `python -m shared.bootstrap.compiled` when an image is built.

What is written beside the pipelines is read instead of them, so that a function parses no YAML. A tree
that people edit has none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared.bootstrap import COMPILED_CATALOG, default_processors
from shared.errors import ConfigError
from shared.settings import ROOT


def compile_catalog(configs: Path) -> Path:
    """Writes the compiled catalog of a folder. Raises ConfigError with every fault of every file."""
    from shared.engine.catalog import Catalog  # noqa: PLC0415  # not while this module is imported

    path = configs / COMPILED_CATALOG
    path.write_bytes(Catalog.load(configs, default_processors()).compiled())
    return path


def main() -> int:
    """0: written. 1: a pipeline has a fault, and nothing is written."""
    try:
        path = compile_catalog(ROOT / "configs")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
