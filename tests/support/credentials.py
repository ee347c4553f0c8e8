"""Credentials as organizations store them, with secrets that a test can look for."""

from __future__ import annotations


def aws_keys(secret: str = "wJalrXUtnFEMI/K7MDENG") -> dict[str, str]:
    return {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": secret}
