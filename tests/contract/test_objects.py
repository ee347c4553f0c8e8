"""What every object store promises, then what only a folder does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.core.secret import Secret
from shared.errors import Terminal
from shared.objects import ObjectStore
from shared.objects.azure import BlobStore
from shared.objects.files import FolderStore
from shared.objects.oci import OciStore
from shared.objects.s3 import S3Store
from tests.support.azure import ACCOUNT, BlobStorage, signature
from tests.support.gcs import CloudStorage, open_bucket
from tests.support.oci import OracleStorage
from tests.support.s3 import REGION, Aws


class Place(NamedTuple):
    """A store, and the way its provider writes into it."""

    store: ObjectStore
    write: Callable[[str, bytes], None]
    delete: Callable[[str], None]


def folder(path: Path) -> Place:
    root = path / "root"
    root.mkdir()

    def write(key: str, content: bytes) -> None:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)

    return Place(FolderStore(root), write, lambda key: (root / key).unlink())


def _files(request: pytest.FixtureRequest) -> Place:
    return folder(request.getfixturevalue("tmp_path"))


def _gcs(request: pytest.FixtureRequest) -> Place:
    storage: CloudStorage = request.getfixturevalue("gcs_emulator")
    bucket = storage.make()
    return Place(
        open_bucket(storage.host, f"gs://{bucket}"),
        partial(storage.write, bucket),
        partial(storage.delete, bucket),
    )


def _gcs_folder(request: pytest.FixtureRequest) -> Place:
    """A folder of a bucket, beside others that begin alike."""
    storage: CloudStorage = request.getfixturevalue("gcs_emulator")
    bucket = storage.make()
    for key in ("export", "exports/one", "a/export/one"):
        storage.write(bucket, key, b"not in it")
    return Place(
        open_bucket(storage.host, f"gs://{bucket}/exported/"),
        lambda key, content: storage.write(bucket, f"exported/{key}", content),
        lambda key: storage.delete(bucket, f"exported/{key}"),
    )


def _ask(secret: Mapping[str, str], **changes: str) -> dict[str, Any]:
    """What every store over HTTP is opened with."""
    return {
        "secret": lambda: Secret(json.dumps({**secret, **changes})),
        "now": lambda: datetime.now(UTC),
        "sleep": lambda _: None,
        "random": lambda: 0.5,
    }


def _s3(request: pytest.FixtureRequest) -> Place:
    aws: Aws = request.getfixturevalue("s3_emulator")
    bucket = aws.make()
    aws.write(bucket, "exports", b"not in it")
    return Place(
        S3Store(
            f"s3://{bucket}/export",
            **_ask(aws.reader._asdict(), region=REGION),
            endpoint=aws.url,
        ),
        lambda key, content: aws.write(bucket, f"export/{key}", content),
        lambda key: aws.delete(bucket, f"export/{key}"),
    )


def _blob(request: pytest.FixtureRequest) -> Place:
    storage: BlobStorage = request.getfixturevalue("blob_emulator")
    container = storage.make()
    return Place(
        BlobStore(
            f"az://{ACCOUNT}/{container}/exports/",
            **_ask({"sas_token": signature("rl")}),
            endpoint=f"http://{storage.host}",
        ),
        lambda key, content: storage.write(container, f"exports/{key}", content),
        lambda key: storage.delete(container, f"exports/{key}"),
    )


def _oci(request: pytest.FixtureRequest) -> Place:
    storage: OracleStorage = request.getfixturevalue("oci_storage")
    bucket = storage.make()
    return Place(
        OciStore(
            f"oci://{bucket}/FOCUS Reports",
            **_ask(storage.secret),
            endpoint=f"http://{storage.host}",
        ),
        lambda key, content: storage.write(bucket, f"FOCUS Reports/{key}", content),
        lambda key: storage.delete(bucket, f"FOCUS Reports/{key}"),
    )


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "files": _files,
    "gcs": _gcs,
    "gcs folder": _gcs_folder,
    "s3": _s3,
    "blob": _blob,
    "oci": _oci,
}
EVERY = [
    "files",
    "oci",
    *(pytest.param(name, marks=pytest.mark.cloud) for name in ("gcs", "gcs folder", "s3", "blob")),
]


@pytest.fixture(params=EVERY)
def place(request: pytest.FixtureRequest) -> Place:
    return BACKENDS[request.param](request)


def test_a_listing_has_every_key_with_the_prefix_in_order(place: Place) -> None:
    keys = ["a/b/2", "a/b/10", "a/b-c/1", "a/bb", "a/b/x/y", "b/1", "a.txt"]
    for key in keys:
        place.write(key, b"x")
    for prefix in ("", "a", "a/", "a/b", "a/b/", "a/b/x/", "b/1", "none/", "a/none"):
        listed = [info.key for info in place.store.list(prefix)]
        assert listed == sorted(key for key in keys if key.startswith(prefix)), prefix


LONG = [
    "files",
    "oci",
    pytest.param("gcs", marks=pytest.mark.cloud),
    # their servers take ten seconds and more for so many objects
    *(pytest.param(name, marks=[pytest.mark.cloud, pytest.mark.slow]) for name in ("s3", "blob")),
]


@pytest.mark.parametrize("place", LONG, indirect=True)
def test_a_listing_goes_to_the_last_page(place: Place) -> None:
    for number in range(2_500):
        place.write(f"many/{number}", b"")
    assert sum(1 for _ in place.store.list("many/")) == 2_500


def test_a_listed_object_is_the_one_that_info_gives(place: Place) -> None:
    place.write("data/file.csv", b"12345")
    (listed,) = place.store.list("data/")
    assert listed == place.store.info("data/file.csv")
    assert (listed.key, listed.size) == ("data/file.csv", 5)
    assert abs((datetime.now(UTC) - listed.modified_at).total_seconds()) < 60


def test_a_version_stays_until_the_content_changes(place: Place) -> None:
    place.write("one", b"before")
    first = place.store.info("one")
    assert first == place.store.info("one")
    place.write("one", b"after it")
    second = place.store.info("one")
    assert first is not None
    assert second is not None
    assert first.version != second.version


def test_an_object_is_read_and_fetched_as_it_was_written(place: Place) -> None:
    content = bytes(range(256)) * 1_000
    place.write("deep/down/here", content)
    assert place.store.read("deep/down/here", len(content)) == content
    with place.store.fetch("deep/down/here") as path:
        assert path.read_bytes() == content


def test_an_empty_object_is_an_object(place: Place) -> None:
    place.write("empty", b"")
    found = place.store.info("empty")
    assert found is not None
    assert found.size == 0
    assert place.store.read("empty", 10) == b""


def test_more_than_the_limit_is_not_read(place: Place) -> None:
    place.write("large", b"x" * 11)
    with pytest.raises(Terminal, match="large") as caught:
        place.store.read("large", 10)
    assert caught.value.code == "object_too_large"


@pytest.mark.parametrize(
    "key", ["none", "none/at/all", "folder", "folder/", "", "/", "folder/file/x"]
)
def test_what_is_not_there_is_no_object(place: Place, key: str) -> None:
    place.write("folder/file", b"x")
    assert place.store.info(key) is None
    with pytest.raises(Terminal) as caught:
        place.store.read(key, 10)
    assert caught.value.code == "object_missing"
    with pytest.raises(Terminal), place.store.fetch(key):
        pass


def test_a_deleted_object_is_gone(place: Place) -> None:
    place.write("short", b"x")
    place.delete("short")
    assert place.store.info("short") is None
    assert list(place.store.list("")) == []


# --- a folder ---


@pytest.fixture
def here(tmp_path: Path) -> Place:
    (tmp_path / "secret").write_bytes(b"not yours")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "file").write_bytes(b"not yours")
    return folder(tmp_path)


@pytest.mark.parametrize(
    "key",
    ["../secret", "a/../../secret", "../root2/file", "./a", "a/./b", "a//b", "a\0b", "~/secret"],
)
def test_no_key_leads_out_of_the_folder(here: Place, tmp_path: Path, key: str) -> None:
    here.write("a/b", b"x")
    for escape in (key, str(tmp_path / "secret")):
        assert here.store.info(escape) is None
        with pytest.raises(Terminal):
            here.store.read(escape, 100)
        assert list(here.store.list(escape)) == []


def test_a_symbolic_link_out_of_the_folder_is_no_object(here: Place, tmp_path: Path) -> None:
    here.write("inside", b"mine")
    root = tmp_path / "root"
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(tmp_path / "root2")
    (root / "own").symlink_to(root / "inside")
    for key in ("link", "linked/file"):
        assert here.store.info(key) is None
        with pytest.raises(Terminal):
            here.store.read(key, 100)
    assert [info.key for info in here.store.list("")] == ["inside", "own"]
    assert list(here.store.list("linked/")) == []


def test_a_file_replaced_within_one_tick_of_the_clock_has_another_version(
    here: Place, tmp_path: Path
) -> None:
    path = tmp_path / "root" / "file"
    here.write("file", b"first")
    before = here.store.info("file")
    stat = path.stat()
    other = tmp_path / "other"
    other.write_bytes(b"other")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    after = here.store.info("file")
    assert before is not None
    assert after is not None
    assert before.modified_at == after.modified_at
    assert before.version != after.version


def test_a_folder_that_is_not_there_is_the_callers_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("none", "file", "file/inside", "circle", "a\0b"):
        with pytest.raises(Terminal) as caught:
            FolderStore(tmp_path / name, name="source 'file:x'")
        assert caught.value.code == "source_missing"
        assert str(caught.value) == "source 'file:x': there is no such folder"


def test_a_folder_that_a_link_leads_out_of_is_not_there(tmp_path: Path) -> None:
    own, other = tmp_path / "acme", tmp_path / "globex"
    (own / "exports").mkdir(parents=True)
    (other / "exports").mkdir(parents=True)
    (own / "theirs").symlink_to(other)
    (own / "mine").symlink_to(own / "exports")
    for name in ("theirs", "theirs/exports"):
        with pytest.raises(Terminal) as caught:
            FolderStore(own / name, inside=own)
        assert caught.value.code == "source_missing"
    FolderStore(own / "mine", inside=own)
    (tmp_path / "elsewhere").symlink_to(own)  # where the operator keeps the folder is his to say
    FolderStore(tmp_path / "elsewhere" / "exports", inside=tmp_path / "elsewhere")


def test_a_name_that_no_folder_can_have_is_no_object(here: Place, tmp_path: Path) -> None:
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root" / "circle")
    for key in ("x" * 5_000, "circle", "circle/x"):
        assert here.store.info(key) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_cannot_be_listed_is_not_empty(here: Place, tmp_path: Path) -> None:
    here.write("a/b", b"x")
    (tmp_path / "root" / "a").chmod(0)
    try:
        with pytest.raises(Terminal) as caught:
            list(here.store.list(""))
    finally:
        (tmp_path / "root" / "a").chmod(0o700)
    assert caught.value.code == "forbidden"
    assert str(tmp_path) not in str(caught.value)
