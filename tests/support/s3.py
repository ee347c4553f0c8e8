"""S3 for tests: moto's server, which checks every signature with botocore once it has been told of a user."""

from __future__ import annotations

import itertools
import json
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

from shared.objects.sigv4 import Keys, signed_headers

REGION = "eu-west-1"
_ADMIN = Keys("AKIAIOSFODNN7EXAMPLE", "secret")
_TRUST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}


def _allow(*actions: str) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class Aws:
    """`writer` may do everything in S3, `reader` only read, `nobody` only assume `role`, which reads."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.url = f"http://{host}"
        self._numbers = itertools.count(1)
        self.writer = self._user("writer", "s3:*")
        self.reader = self._user("reader", "s3:ListBucket", "s3:GetObject")
        self.nobody = self._user("nobody", "sts:AssumeRole")
        self._iam(
            Action="CreateRole", RoleName="billing", AssumeRolePolicyDocument=json.dumps(_TRUST)
        )
        self._iam(
            Action="PutRolePolicy",
            RoleName="billing",
            PolicyName="read",
            PolicyDocument=_allow("s3:ListBucket", "s3:GetObject"),
        )
        self.role = "arn:aws:iam::123456789012:role/billing"
        self._send("POST", "/moto-api/reset-auth", b"0", {})

    def make(self) -> str:
        """The name of a new bucket."""
        bucket = f"bucket-{os.getpid()}-{next(self._numbers)}"
        where = (
            f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint>"
            "</CreateBucketConfiguration>"
        )
        self._signed("PUT", f"/{bucket}", where.encode(), "s3", self.writer)
        return bucket

    def write(self, bucket: str, key: str, content: bytes) -> None:
        self._signed("PUT", f"/{bucket}/{quote(key)}", content, "s3", self.writer)

    def delete(self, bucket: str, key: str) -> None:
        self._signed("DELETE", f"/{bucket}/{quote(key)}", b"", "s3", self.writer)

    def _user(self, name: str, *actions: str) -> Keys:
        self._iam(Action="CreateUser", UserName=name)
        self._iam(
            Action="PutUserPolicy", UserName=name, PolicyName="may", PolicyDocument=_allow(*actions)
        )
        said = ET.fromstring(self._iam(Action="CreateAccessKey", UserName=name))
        found = (said.findtext(f".//{{*}}{part}") for part in ("AccessKeyId", "SecretAccessKey"))
        return Keys(*(text or "" for text in found))

    def _iam(self, **form: str) -> bytes:
        body = urlencode(form | {"Version": "2010-05-08"}).encode()
        return self._signed("POST", "/", body, "iam", _ADMIN)

    def _signed(self, method: str, path: str, body: bytes, service: str, keys: Keys) -> bytes:
        headers = signed_headers(
            method,
            self.url + path,
            keys,
            region=REGION,
            service=service,
            now=datetime.now(UTC),
            body=body,
        )
        return self._send(method, path, body, headers)

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        form = "application/x-www-form-urlencoded"
        request.add_header("Content-Type", form if path == "/" else "application/octet-stream")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from None
