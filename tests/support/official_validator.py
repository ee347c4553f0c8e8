"""The FinOps Foundation's validator, run on Parquet files: `.venv-focus/bin/python THIS FILE...`.

It is a program of its own environment, where nothing of ours is. It prints, for each file, the rules of
FOCUS 1.2 that hold and those that do not, as JSON. The validator reads its data by paths relative to its
folder, leaves a log there, and ends with 0 whatever it finds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path


def main(files: list[str]) -> None:
    """Judges the files, which are to be absolute paths."""
    import focus_validator  # type: ignore[import-not-found]
    from focus_validator.validator import Validator  # type: ignore[import-not-found]

    os.chdir(Path(focus_validator.__file__).parents[1])
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            with contextlib.redirect_stdout(io.StringIO()):
                judged = Validator(
                    data_filename=file,
                    output_destination=str(Path(folder) / "report.xml"),
                    output_type="unittest",
                    rules_version="1.2",
                    focus_dataset="CostAndUsage",
                    rules_block_remote_download=True,
                ).validate()
            rules = {
                name: found["ok"]
                for name, found in judged.by_rule_id.items()
                if not found["details"].get("skipped")
            }
            verdicts[file] = {
                "held": sorted(name for name, ok in rules.items() if ok),
                "broken": sorted(name for name, ok in rules.items() if not ok),
            }
    sys.stdout.write(json.dumps(verdicts))


if __name__ == "__main__":
    main(sys.argv[1:])
