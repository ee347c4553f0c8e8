"""The API does what its OpenAPI document says, whatever is sent to it: schemathesis, with all its checks.

It is called as a command, over HTTP. 500 requests or more with each key; 10,000 by `make fuzz`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.examples import examples
from tests.support.system import EmbeddedSystem

AT_LEAST = examples(500)
EXAMPLES = min(examples(4), 400)  # at most so many for each operation, in each phase
CONFIG = Path(__file__).parents[1] / "support" / "schemathesis.toml"
SEED = 5


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedSystem]:
    """An organization with a run, and no limit to speak of: a 429 would hide what is behind it."""
    with EmbeddedSystem(
        tmp_path_factory.mktemp("system"),
        wrap=lambda app: replace(app, requests_per_minute=10**6, failed_keys_per_minute=10**6),
    ) as made:
        made.organization("acme")
        made.run("acme", "engine/noop/five")
        yield made


@pytest.mark.slow
@pytest.mark.hypothesis
@pytest.mark.parametrize("key", ["platform", "organization", "none"])
def test_whatever_is_sent_the_answer_is_what_the_document_says(
    system: EmbeddedSystem, key: str, tmp_path: Path
) -> None:
    made = system.call("POST", "/admin/orgs/acme/keys", {"name": key, "scopes": ["admin"]})
    keys = {"platform": [system.platform_key], "organization": [made.json["api_key"]], "none": []}
    headers = [word for text in keys[key] for word in ("--header", f"X-API-Key: {text}")]
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={CONFIG}",
            "run",
            f"{system.url}/openapi.json",
            f"--url={system.url}",
            "--checks=all",
            f"--max-examples={EXAMPLES}",
            f"--seed={SEED}",
            *headers,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    found = re.search(r"([0-9]+) generated, ", done.stdout)
    assert found is not None, done.stdout
    print(f"{found[1]} requests with the key: {key}")
    assert int(found[1]) >= AT_LEAST
