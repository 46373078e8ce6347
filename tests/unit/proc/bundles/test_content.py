from kdcube.proc.bundles.content import VERSION_DIGITS, content_version


def test_version_follows_names_and_content(tmp_path):
    (tmp_path / "bundle.py").write_text("1")
    first = content_version(str(tmp_path), None)
    assert len(first) == VERSION_DIGITS
    assert content_version(str(tmp_path), None) == first

    (tmp_path / "bundle.py").write_text("2")
    second = content_version(str(tmp_path), None)
    (tmp_path / "bundle.py").rename(tmp_path / "other.py")
    third = content_version(str(tmp_path), None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompt.md").write_text("x")
    fourth = content_version(str(tmp_path), None)
    assert len({first, second, third, fourth}) == 4


def test_caches_do_not_count(tmp_path):
    (tmp_path / "bundle.py").write_text("1")
    before = content_version(str(tmp_path), None)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "bundle.pyc").write_text("x")
    (tmp_path / "old.pyc").write_text("x")
    assert content_version(str(tmp_path), None) == before


def test_several_bundles_in_one_folder_have_versions_of_their_own(tmp_path):
    for name in ("a@1", "b@1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "entrypoint.py").write_text(name)
    before = content_version(str(tmp_path), "a@1.entrypoint")
    (tmp_path / "b@1" / "entrypoint.py").write_text("changed")
    assert content_version(str(tmp_path), "a@1.entrypoint") == before


def test_one_file(tmp_path):
    (tmp_path / "agent.py").write_text("1")
    first = content_version(str(tmp_path / "agent.py"), None)
    (tmp_path / "beside.py").write_text("1")
    assert content_version(str(tmp_path / "agent.py"), None) == first


def test_a_link_to_a_folder_does_not_loop(tmp_path):
    (tmp_path / "bundle.py").write_text("1")
    before = content_version(str(tmp_path), None)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert content_version(str(tmp_path), None) == before
