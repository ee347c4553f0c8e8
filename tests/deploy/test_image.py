"""The image: its file is sound, and holds what a function needs and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bootstrap import COMPILED_CATALOG, default_processors, load_catalog
from shared.bootstrap.compiled import compile_catalog
from shared.engine.catalog import Catalog
from shared.errors import ConfigError
from shared.settings import ROOT

CONFIGS = ROOT / "configs"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIGS, tmp_path / "configs"))


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [tool, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


def test_an_image_runs_the_pipelines_that_its_files_say(configs: Path) -> None:
    processors = default_processors()
    read = list(load_catalog(configs, processors))

    compile_catalog(configs)

    for file in configs.glob("**/billing.yml"):
        file.unlink()  # what was compiled needs no YAML
    assert list(load_catalog(configs, processors)) == read
    assert read


def test_no_image_is_built_of_a_faulty_pipeline(configs: Path) -> None:
    (configs / "cloud/aws/cost/billing.yml").write_text("pipeline_id: [")

    with pytest.raises(ConfigError, match=r"billing\.yml"):
        compile_catalog(configs)

    assert not (configs / COMPILED_CATALOG).exists()


def test_a_compiled_catalog_of_another_release_is_told(configs: Path) -> None:
    (configs / COMPILED_CATALOG).write_text('{"format": 0, "pipelines": []}')

    with pytest.raises(ConfigError, match="build the image anew"):
        load_catalog(configs, default_processors())


def test_the_tree_of_an_image_is_what_its_files_copy() -> None:
    copied = {
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }

    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_a_checkout_is_not_compiled() -> None:
    assert not (CONFIGS / COMPILED_CATALOG).exists(), "what people edit would not be what runs"
    assert Catalog.load(CONFIGS, default_processors())
