"""The OpenAPI document is true: what it promises holds for generated requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

# They do not end by themselves, or change what the others are tried under: see test_openai.py,
# test_administration.py, test_bundles.py.
_NOT_HERE = (
    "(stream|completions)$|^/admin/gateway-config(/validate|/reset|/rollback)?$"
    "|^/admin/bundles(/{bundle_id}(/reload|/rollback)?)?$|^/webhooks/"
)


@pytest.mark.timeout(300)
async def test_generated_requests_find_nothing_that_the_document_does_not_say(process: Any, tmp_path: Path) -> None:
    run = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{process.url}/openapi.json"),
        *("--url", process.url, "--header", "Authorization: Bearer root-token", "--exclude-path-regex", _NOT_HERE),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--workers", "1"),
        *("--generation-database", "none", "--no-color"),
    ]
    done = await asyncio.to_thread(subprocess.run, run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + process.log.read_text()[-2000:]
