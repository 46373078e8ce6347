from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kdcube.proc.bundles import keeper

MB = 1024 * 1024


def test_children_are_found_whether_the_kernel_tells_them_or_not():
    with subprocess.Popen(["sh", "-c", "sleep 3600 & echo $!; wait"], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            found = dict(keeper.below(os.getpid()))
            assert {parent.pid: 1, child: 1}.items() <= found.items()
            everybodys = keeper._children_of_all()
            assert parent.pid in everybodys[os.getpid()]
            assert everybodys[parent.pid] == [child]
        finally:
            os.kill(child, 9)


def test_a_folder_is_counted_without_following_links_and_no_further_than_it_matters(tmp_path: Path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (inside / "deep" / "er").mkdir(parents=True)
    outside.mkdir()
    (outside / "large").write_bytes(bytes(4 * MB))
    (inside / "deep" / "er" / "file").write_bytes(os.urandom(MB))
    (inside / "link").symlink_to(outside)
    used, files = keeper._usage(str(inside), 100 * MB)
    assert MB <= used < 2 * MB
    assert files == 4
    assert keeper._usage(str(tmp_path / "absent"), 1) == (0, 0)
