"""Files by URI: whole or not at all, on a folder and on another file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtm import UserError
from pipeline import storage


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "deep" / "file")
    storage.write(uri, b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        storage.write(uri, b"new and longer")
    assert storage.read(uri) == b"old"


def test_listing_and_deleting(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "a" / "b" / "x"), b"123")
    assert storage.files(str(tmp_path)) == {"a/b/x": 3}
    storage.delete(str(tmp_path / "a"))
    storage.delete(str(tmp_path / "a"))
    assert storage.files(str(tmp_path / "a")) == {}


def test_relative_paths_mean_the_same_place_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file is not writable .*--storage-path"):
        storage.check_writable(str(tmp_path / "file"))


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(UserError, match="'nowhere://bucket' is not usable"):
        storage.resolve("nowhere://bucket")
