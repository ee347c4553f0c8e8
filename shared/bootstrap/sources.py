"""The stores that an organization's exports are in, by the scheme of their address.

Each is opened with the organization's own credential, never as the platform; its module is imported only
when a source of its scheme is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.bootstrap import Clock
from shared.errors import Terminal
from shared.objects import ObjectStore
from shared.settings import SourceHosts
from shared.vault import Credential

if TYPE_CHECKING:
    from shared.core.secret import Secret

FORMS = (
    "s3://BUCKET/FOLDER, az://ACCOUNT/CONTAINER/FOLDER, oci://BUCKET@NAMESPACE/FOLDER "
    "or gs://BUCKET/FOLDER"
)


def open_source(
    url: str,
    credential: Callable[[], Credential],
    clock: Clock,
    hosts: SourceHosts,
    *,
    beside: str = "",
) -> ObjectStore:
    """The store at `url`. `beside` is what else a source may be. Raises Terminal `bad_source`."""

    def secret() -> Secret:
        return credential().secret

    now, sleep, chance = clock.now, clock.sleep, clock.random
    match url.partition("://")[0]:
        case "s3":
            from shared.objects.s3 import S3Store  # noqa: PLC0415

            endpoint = hosts.s3 and f"http://{hosts.s3}"
            return S3Store(url, secret, now=now, sleep=sleep, random=chance, endpoint=endpoint)
        case "az":
            from shared.objects.azure import BlobStore  # noqa: PLC0415

            endpoint = hosts.az and f"http://{hosts.az}"
            return BlobStore(url, secret, now=now, sleep=sleep, random=chance, endpoint=endpoint)
        case "oci":
            from shared.objects.oci import OciStore  # noqa: PLC0415

            endpoint = hosts.oci and f"http://{hosts.oci}"
            return OciStore(url, secret, now=now, sleep=sleep, random=chance, endpoint=endpoint)
        case "gs":
            from shared.objects.gcs import open_gcs  # noqa: PLC0415

            return open_gcs(url, secret, now=now, sleep=sleep, random=chance, emulator=hosts.gs)
    raise Terminal(f"source {url!r}: a source is {beside}{FORMS}", code="bad_source")
