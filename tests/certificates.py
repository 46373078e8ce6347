"""A certificate authority for tests of TLS."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM."""

    certificate: Path
    key: Path


def make_authority(folder: Path, name: str) -> Certificate:
    """A certificate that may sign others."""
    return _make(folder, name, "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def make_certificate(folder: Path, authority: Certificate, host: str) -> Certificate:
    """That of a server which is called ``host``, signed by ``authority``."""
    signed = ("-CA", str(authority.certificate), "-CAkey", str(authority.key))
    return _make(folder, host, *signed, "-addext", f"subjectAltName=DNS:{host}", "-addext", "basicConstraints=CA:FALSE")


def _make(folder: Path, name: str, *options: str) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.fail("openssl is not installed: run the tests by `make test`, or apt-get install openssl")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", str(made.key))
    command = ("openssl", "req", "-x509", *new_key, "-out", str(made.certificate), "-subj", f"/CN={name}", "-days", "2")
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made
