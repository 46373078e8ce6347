"""Compose itself takes what was rendered, and understands it as it was meant. It needs no engine for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.deploy.compose.described import FACTS, NAMES, described

from kdcube.deploy.compose.writing import write_rendered
from kdcube.deploy.render.compose.facts import project_name
from kdcube.deploy.render.compose.rendering import render
from kdcube.deploy.render.variables import CONFIGURED, plain_variables

COMPOSE = Path(sys.executable).with_name("docker-compose")


@pytest.mark.parametrize("name", NAMES)
def test_compose_takes_it(name, tmp_path):
    descriptor = described(name)
    write_rendered(render(descriptor, FACTS), tmp_path)
    done = subprocess.run(
        (str(COMPOSE), "--project-directory", str(tmp_path), "config", "--format", "json"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    understood = json.loads(done.stdout)
    assert understood["name"] == project_name(descriptor)
    for service in CONFIGURED:
        if service in descriptor.running:
            given = understood["services"][service]["environment"]
            told = plain_variables(descriptor, service)
            assert {name: given[name].replace("$$", "$") for name in told} == told
