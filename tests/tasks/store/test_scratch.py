"""Tests of scratch folders: private, removed at the end, swept after a killed process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.store.scratch import scratch_folder

HOLD = """
from tasks.store.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").write_text("of another process")
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Yield another process and its scratch folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_a_folder_is_private_and_removed_with_its_files(temporary: Path) -> None:
    with scratch_folder() as folder, scratch_folder() as second:
        parent = temporary / f"dual-sampling-{os.getuid()}"
        assert parent in folder.parents
        assert parent.stat().st_mode & 0o777 == 0o700
        assert list(folder.iterdir()) == list(second.iterdir()) == []
        assert folder != second
        (folder / "deep").mkdir()
        (folder / "deep/file").write_text("x")
    assert [path for path in parent.iterdir() if path.is_dir()] == []


def test_a_folder_is_removed_after_an_error() -> None:
    with pytest.raises(RuntimeError), scratch_folder() as folder:
        raise RuntimeError
    assert not folder.parent.exists()


def test_the_folder_of_a_killed_process_is_swept(other: tuple[subprocess.Popen[str], Path]) -> None:
    process, left = other
    with scratch_folder():
        assert (left / "file").exists()  # its process is alive
    process.kill()
    process.wait()
    assert (left / "file").exists()
    with scratch_folder() as folder:
        assert not left.parent.exists()
        assert folder.exists()


def test_the_folder_of_an_ended_process_is_gone(other: tuple[subprocess.Popen[str], Path]) -> None:
    process, left = other
    process.communicate("\n")
    assert process.returncode == 0
    assert not left.parent.exists()


def test_links_and_files_in_the_parent_are_kept(temporary: Path) -> None:
    with scratch_folder() as folder:
        parent = folder.parents[1]
    (temporary / "precious").mkdir()
    (parent / "link").symlink_to(temporary / "precious")
    (parent / "file").write_text("x")
    with scratch_folder():
        pass
    assert (temporary / "precious").exists()
    assert (parent / "file").exists()


def test_a_folder_of_another_user_is_refused(temporary: Path) -> None:
    parent = temporary / f"dual-sampling-{os.getuid()}"
    (temporary / "elsewhere").mkdir(mode=0o700)
    parent.symlink_to(temporary / "elsewhere")
    with pytest.raises(OutputError, match="is not a folder of this user; set TMPDIR"), scratch_folder():
        pass
    parent.unlink()
    parent.mkdir(mode=0o755)
    with pytest.raises(OutputError, match="is open to other users"), scratch_folder():
        pass
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    parent.chmod(0o700)
    os.chown(parent, 12345, 12345)
    with pytest.raises(OutputError, match="is not a folder of this user"), scratch_folder():
        pass
    assert list(parent.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with (
        pytest.raises(OutputError, match=r"/proc/nowhere/dual-sampling-\d+: .*; set TMPDIR to a folder with room"),
        scratch_folder(),
    ):
        pass
