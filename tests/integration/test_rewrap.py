"""What an operator does after a rotation of the wrapping key, through the API and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
from flask import Request
from werkzeug.serving import make_server

from shared.bootstrap import ENGINE_KEY, function
from shared.settings import PLATFORM_KEY_FILE, ROOT
from shared.vault.local import LocalKeyRing
from tests.support.credentials import aws_keys
from tests.support.system import EmbeddedSystem

CREDENTIAL = "/admin/orgs/acme/credentials/aws/main"


def test_after_a_rewrap_the_older_key_may_go(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        system.organization("acme")
        assert (
            system.call("PUT", CREDENTIAL, {"secret": aws_keys("s3cretS3cretS3cret")}).status == 201
        )
        keys = system.settings.data / "keys.json"
        LocalKeyRing(keys).rotate()
        answer = system.call("POST", "/admin/orgs/acme/rewrap")
        assert (answer.status, answer.json) == (200, {"rewrapped": 1})
        keys.write_text(keys.read_text().splitlines()[-1] + "\n")
        system.restart()
        opened = system.app.vault.open("acme", "aws", "main")
        assert opened.secret.reveal() == msgspec.json.encode(aws_keys("s3cretS3cretS3cret"))


def test_a_data_key_that_no_longer_opens_is_a_conflict_that_says_what_to_do(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        system.organization("acme")
        system.call("PUT", CREDENTIAL, {"secret": aws_keys()})
        keys = system.settings.data / "keys.json"
        keys.unlink()
        LocalKeyRing(keys).rotate()
        answer = system.call("POST", "/admin/orgs/acme/rewrap")
        assert (answer.status, answer.json["error"]) == (409, "unsealable")
        assert "store the credential again" in answer.json["detail"]


def test_only_the_platform_rewraps_and_only_for_an_organization_there_is(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        system.organization("acme")
        own = system.call("POST", "/admin/orgs/acme/keys", {"name": "own", "scopes": ["admin"]})
        key = own.json["api_key"]
        assert system.call("POST", "/admin/orgs/acme/rewrap", key=key).status == 403
        assert system.call("POST", "/admin/orgs/nobody/rewrap").status == 404


def test_the_command_says_how_many_keys_it_wrapped(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        system.organization("acme")
        system.call("PUT", CREDENTIAL, {"secret": aws_keys()})

        def api(environ: dict[str, Any], start_response: Any) -> Any:
            response = function("api")(Request({**environ, ENGINE_KEY: system.embedded.engine}))
            return response(environ, start_response)

        server = make_server("127.0.0.1", 0, api)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            said = subprocess.run(
                [sys.executable, "-m", "shared.cli", "credentials", "rewrap", "--org", "acme"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PIPELINES_URL": f"http://127.0.0.1:{server.server_port}",
                    "PIPELINES_API_KEY": (system.settings.data / PLATFORM_KEY_FILE).read_text(),
                },
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
    assert said.stdout == "acme: 1 data key wrapped with the newest key\n"
