"""What the README shows is true."""

from __future__ import annotations

import re

from shared.core.parse import load_pipeline
from shared.processors import PROCESSORS
from shared.settings import ROOT


def test_the_pipeline_in_the_readme_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    pipeline = load_pipeline("configs/aws/cost/billing.yml", text.encode(), PROCESSORS)
    assert pipeline.address == "aws/cost/billing"
