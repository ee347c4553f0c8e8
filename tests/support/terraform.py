"""Terraform without a registry or a cloud: the real binary, and a provider that knows its schema only.

The checks stand beside the project, in `../shared/tfoffline`: a stranger who has the repository alone
is told that they were left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.settings import ROOT

OFFLINE = ROOT.parent / "shared" / "tfoffline"
SCHEMAS = ("6.50.0", "8.7.0")  # the oldest and the newest provider that versions.tf admits
IMAGE = "europe-west1-docker.pkg.dev/a-project/pipelines-prod/pipelines@sha256:" + "01" * 32
_SECONDS = 120.0


def needed() -> None:
    """Skips what cannot be checked here. In CI nothing is left out."""
    for there, what in (
        (shutil.which("terraform") is not None, "terraform"),
        (OFFLINE.is_dir(), "../shared/tfoffline"),
    ):
        if not there:
            if os.environ.get("CI"):
                pytest.fail(f"{what} is not here, and CI leaves nothing out")
            pytest.skip(f"{what} is not here")


def terraform(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`terraform` in our folder, for what needs no provider."""
    environ = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull}
    return subprocess.run(
        ["terraform", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ,
        timeout=_SECONDS,
        check=False,
    )


def offline(tmp_path: Path, schema: str, *commands: str) -> subprocess.CompletedProcess[str]:
    """Runs commands of terraform in a copy of the tree, whose state is a file of its own."""
    there = tmp_path / "terraform"
    if not there.exists():
        shutil.copytree(
            ROOT / "terraform", there, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*")
        )
        (tmp_path / "configs" / "system").mkdir(parents=True)
        indexes = "configs/system/firestore.indexes.json"
        shutil.copy(ROOT / indexes, tmp_path / indexes)
        versions = there / "versions.tf"
        versions.write_text(versions.read_text().replace('backend "gcs" {}', ""))
    return subprocess.run(
        [
            sys.executable,
            str(OFFLINE / "tfoffline.py"),
            "--schema",
            str(OFFLINE / "schema" / f"google-{schema}.json.gz"),
            str(there),
            *" + ".join(commands).split(),
        ],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def planned(tmp_path: Path, **variables: str) -> dict[str, list[dict[str, Any]]]:
    """What a plan would make: the values of each resource, by type."""
    given = {"project": "a-project", "image": IMAGE, **variables}
    options = " ".join(f"-var={name}={value}" for name, value in given.items())
    done = offline(
        tmp_path,
        SCHEMAS[-1],
        f"plan -input=false -no-color -out=made -var-file=environments/prod.tfvars {options}",
        "show -json made",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    found: dict[str, list[dict[str, Any]]] = {}
    for resource in shown["planned_values"]["root_module"]["resources"]:
        values = {**resource["values"], "_index": resource.get("index")}
        found.setdefault(resource["type"], []).append(values)
    return found
