"""A store that many use at once, and one on a disk that cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ollamapy.store.errors import ModelNotFoundError
from ollamapy.store.manifest import ModelConfig
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store

NAME = ModelName.parse("contested")
ROUNDS = 60

WORK = """
import sys
from pathlib import Path
from tests.store.test_store_together import work
work(Path(sys.argv[1]), int(sys.argv[2]))
"""


def work(root: Path, number: int) -> None:
    """Make, replace, copy, read and delete one name, as a server does. Only "not found" is an expected failure."""
    store = Store(root)
    for turn in range(ROUNDS):
        with store.blobs.writing():
            layers = [store.add_text("system", f"{number} {turn}"), store.add_text("license", "shared")]
            store.write(NAME, ModelConfig(model_format="gguf"), layers)
        try:
            model = store.get(NAME)
            assert model.name == NAME
            store.copy(NAME, ModelName.parse(f"copy{number}"))
            if turn % 2:
                store.delete(NAME)
        except ModelNotFoundError:
            pass
        store.list()
        store.prune()


def test_one_name_made_and_deleted_by_many(tmp_path: Path) -> None:
    """Threads and processes; whatever is listed at the end is whole, and nothing half-written lies around."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(tmp_path, number)
        except BaseException as error:
            failures.append(error)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    others = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path), str(number)], env=environment, stderr=subprocess.PIPE
        )
        for number in (10, 11)
    ]
    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for other in others:
        _, text = other.communicate(timeout=120)
        assert other.returncode == 0, text.decode()
    assert not failures, failures
    store = Store(tmp_path)
    for model in store.list():
        assert model.licenses == ["shared"] and model.system
    assert len([model for model in store.list() if model.name.model.startswith("copy")]) == 5
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is listed and read; what would write says why. (Permissions do not bind root, so the calls of the
    system that would change something fail as they do on such a disk.)"""
    store = Store(tmp_path)
    with store.blobs.writing():
        store.write(NAME, ModelConfig(model_format="gguf"), [store.add_text("system", "kind")])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    opened = os.open

    def refuse(*arguments: object, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

    def read_only(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return opened(path, flags, *rest, **named)

    for name in ("unlink", "rename", "replace", "link", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", read_only)
    store = Store(tmp_path)
    store.tidy()  # what a server does first
    assert [model.name for model in store.list()] == [NAME]
    assert store.get(NAME).system == "kind"
    with pytest.raises(OSError, match="Read-only file system"), store.blobs.writing():
        pass
    with pytest.raises(OSError, match="Read-only file system"):
        store.blobs.add([b"x"])
    with pytest.raises(OSError, match="Read-only file system"):
        store.copy(NAME, ModelName.parse("other"))
    with pytest.raises(OSError, match="Read-only file system"):
        store.delete(NAME)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
