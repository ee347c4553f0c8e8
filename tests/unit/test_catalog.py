from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.engine.catalog import Catalog
from shared.errors import ConfigError, NotFound, Unreadable
from shared.processors import PROCESSORS

REPOSITORY = Path(__file__).parents[2]


def put(root: Path, name: str, pipeline_id: str | None = None) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"pipeline_id: {pipeline_id or path.stem}\nprovider: x\ndomain: y\n"
        "steps: [{step_id: a, ps_type: generic.noop, config: {sleep_seconds: 0.5}}]\n",
        encoding="utf-8",
    )
    return path


def load(root: Path) -> Catalog:
    return Catalog.load(root, PROCESSORS)


def faults(root: Path) -> list[str]:
    """The faults of a tree, with their paths counted from its root."""
    with pytest.raises(ConfigError) as raised:
        load(root)
    return [str(fault).replace(f"{root}/", "") for fault in raised.value.faults]


def test_an_address_is_the_path_without_its_category(tmp_path: Path) -> None:
    put(tmp_path, "cloud/aws/cost/billing.yml", "aws_billing")
    put(tmp_path, "cloud/gcp/cost/billing.yml", "gcp_billing")
    put(tmp_path, "genai/payg/openai.yml")
    catalog = load(tmp_path)
    assert catalog.addresses() == ["aws/cost/billing", "gcp/cost/billing", "genai/payg/openai"]
    assert [pipeline.address for pipeline in catalog] == catalog.addresses()
    assert len(catalog) == 3
    assert catalog.get("gcp/cost/billing").pipeline_id == "gcp_billing"
    assert catalog.by_id("aws_billing") is catalog.get("aws/cost/billing")


def test_what_is_not_there_is_not_found_and_the_near_miss_is_named(tmp_path: Path) -> None:
    put(tmp_path, "genai/payg/openai.yml")
    catalog = load(tmp_path)
    with pytest.raises(NotFound, match=r"'genai/payg/opnai' \(did you mean 'genai/payg/openai'"):
        catalog.get("genai/payg/opnai")
    with pytest.raises(NotFound, match=r"the id 'opnai' \(did you mean 'openai'"):
        catalog.by_id("opnai")
    with pytest.raises(NotFound):
        catalog.get("genai/payg/openai.yml")


def test_system_files_and_hidden_files_are_no_pipelines(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c.yml")
    for name in ("system/plans.yml", "system/rate_cards/openai.yml", "a/b/.c.yml.swp", "a/b/x.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("- not\n- a pipeline\n", encoding="utf-8")
    (tmp_path / "a/b/.#c.yml").symlink_to("nobody@nowhere.1234")  # an editor's lock
    (tmp_path / ".git").mkdir()
    assert load(tmp_path).addresses() == ["a/b/c"]


def test_two_files_with_one_address_or_one_id_are_a_fault_that_names_both(tmp_path: Path) -> None:
    put(tmp_path, "cloud/a/b/c.yml", "one")
    put(tmp_path, "a/b/c.yml", "two")
    put(tmp_path, "a/b/d.yml", "two")
    assert faults(tmp_path) == [
        "a/b/d.yml has the pipeline_id 'two', as a/b/c.yml has",
        "cloud/a/b/c.yml has the address 'a/b/c', as a/b/c.yml has",
    ]


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c.yml").write_text("pipeline_id: C\nsteps: []\n", encoding="utf-8")
    put(tmp_path, "a/b/d.yml").write_bytes(b"\xff")
    assert faults(tmp_path) == [
        "a/b/c.yml:1:1 provider is missing",
        "a/b/c.yml:1:1 domain is missing",
        "a/b/c.yml:1:14 pipeline_id must match ^[a-z][a-z0-9_-]{0,62}$, not 'C'",
        "a/b/c.yml:2:8 steps must not be empty",
        "a/b/d.yml:1:1 is not UTF-8 (byte 0xff)",
    ]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("c.yml", "is in the wrong place: a pipeline is [category/]provider/domain/pipeline.yml"),
        ("b/c.yml", "is in the wrong place: a pipeline is [category/]provider/domain/pipeline.yml"),
        ("x/y/a/b/c.yml", "is in the wrong place: a pipeline is [category/]provider/domain/"),
        ("a/b/c.yaml", "must end in .yml"),
        ("a/b/C.yml", "has the name 'C' in its path, which must match [a-z][a-z0-9_-]{0,62}"),
        ("a b/b/c.yml", "has the name 'a b' in its path, which must match [a-z][a-z0-9_-]{0,62}"),
        ("a/b/c.d.yml", "has the name 'c.d' in its path, which must match [a-z][a-z0-9_-]{0,62}"),
    ],
)
def test_a_file_in_an_odd_place_or_with_an_odd_name_is_refused(
    tmp_path: Path, name: str, fault: str
) -> None:
    put(tmp_path, name, "p")
    [found] = faults(tmp_path)
    assert found.startswith(f"{name} {fault}")


def test_links_stay_inside_the_tree(tmp_path: Path) -> None:
    outside = put(tmp_path, "elsewhere/x.yml")
    root = tmp_path / "configs"
    put(root, "a/b/c.yml")
    (root / "a/b/linked.yml").symlink_to(outside)
    (root / "a/folder").symlink_to(outside.parent)
    (root / "a/again").symlink_to(root / "a")
    (root / "a/b/circle.yml").symlink_to("circle.yml")
    found = faults(root)
    assert "a/again is a link to a folder: put the folder here" in found
    assert "a/b/linked.yml is a link that leads out of the folder" in found
    assert "a/folder is a link that leads out of the folder" in found
    assert sum(fault.startswith("a/b/circle.yml ") for fault in found) == 1
    assert len(found) == 4


def test_a_link_to_a_file_of_the_tree_is_that_file(tmp_path: Path) -> None:
    real = put(tmp_path, "..data/c.yml")  # as a mounted volume lays files out
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.yml").symlink_to(real)
    assert load(tmp_path).addresses() == ["a/b/c"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c.yml")
    os.mkfifo(tmp_path / "a/b/d.yml")
    assert faults(tmp_path) == ["a/b/d.yml is no regular file"]


def test_a_folder_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be read: No such file or directory"):
        load(tmp_path / "nowhere")


def test_a_large_file_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    with put(tmp_path, "a/b/c.yml").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    assert faults(tmp_path) == ["a/b/c.yml:1:1 the file is larger than 512 KiB"]


def test_a_compiled_catalog_is_the_same_catalog(tmp_path: Path) -> None:
    put(tmp_path, "cloud/aws/cost/billing.yml")
    catalog = load(tmp_path)
    again = Catalog.from_compiled(catalog.compiled())
    assert list(again) == list(catalog)
    assert load(tmp_path).compiled() == catalog.compiled()


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b'{"format":2,"pipelines":[]}', b"\xff", b"[" * 9]
)
def test_anything_else_is_no_compiled_catalog(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        Catalog.from_compiled(raw)


@pytest.mark.parametrize("folder", ["configs", "tests/pipelines"])
def test_every_shipped_pipeline_loads_and_survives_compiling(folder: str) -> None:
    catalog = load(REPOSITORY / folder)
    assert len(catalog)
    assert list(Catalog.from_compiled(catalog.compiled())) == list(catalog)


REGISTRY = "x: {title: X, category: saas, aliases: [ex]}\n"


def test_the_provider_of_a_pipeline_is_in_the_registry_by_its_name(tmp_path: Path) -> None:
    registry = tmp_path / "system" / "providers.yml"
    registry.parent.mkdir()
    registry.write_text(REGISTRY)
    put(tmp_path, "a/b/good.yml")
    assert len(load(tmp_path)) == 1
    for word in ("ex", "xx"):
        path = put(tmp_path, f"a/b/{word}.yml")
        path.write_text(path.read_text().replace("provider: x", f"provider: {word}"))
    alias, unknown = faults(tmp_path)
    assert alias == "a/b/ex.yml:2:11 provider 'ex' is an alias: write x"
    assert unknown.startswith("a/b/xx.yml:2:11 provider cannot be found: there is no provider 'xx'")
    assert "did you mean 'x'?" in unknown
    registry.write_text("x: {}")
    assert {fault.split(" ")[0] for fault in faults(tmp_path)} == {"system/providers.yml:1:4"}
