"""Children end with whoever started them, however that ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from kdcube.local import process
from kdcube.local.process import Program

_PARENT = """
import signal, sys
from kdcube.local.process import Program, start
child = start(Program((sys.executable, "-S", "-c", "import signal; signal.pause()")))
while "setpriv" in open(f"/proc/{child.pid}/cmdline").read():
    pass  # a parent that dies before setpriv has asked for the death signal leaves its child to the next `up`
print(child.pid, flush=True)
signal.pause()
"""


def test_a_child_ends_with_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert select.select([child], [], [], 20)[0] == [child]
    os.close(child)


def test_output_goes_to_the_log_and_nothing_is_inherited(tmp_path):
    log = tmp_path / "log"
    code = "import os, sys; print(sorted(os.environ)); print('wrong', file=sys.stderr)"
    child = process.start(Program((sys.executable, "-S", "-c", code), {"ONLY": "this", "LC_ALL": "C"}), log)
    assert child.wait() == 0
    assert sorted(log.read_text().splitlines()) == ["['LC_ALL', 'ONLY']", "wrong"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_that_does_not_stop_is_killed():
    child = process.start(Program((sys.executable, "-S", "-c", "import signal; signal.pause()")))
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)  # stopped, not about to be
    assert process.stop(child, signal.SIGTERM, grace_s=0) == -signal.SIGKILL


def test_what_a_failed_command_said_is_in_its_error():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        process.run(Program(("/bin/sh", "-c", "echo out of order >&2; exit 3")))
    assert caught.value.returncode == 3
    assert caught.value.stdout == "out of order\n"
