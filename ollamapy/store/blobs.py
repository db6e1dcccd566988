"""Content by SHA-256: `blobs/sha256-…`, each written whole or not at all.

A blob is written to a hidden file beside its place, locked by its writer, then renamed. A writer that died
leaves a hidden file that nobody locks: tidy() removes it. Between writing blobs and the manifest that names
them a writer holds the folder's shared lock (writing()), so that nobody prunes what is not named yet; the
kernel drops the lock with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ollamapy.store.errors import BlobNotFoundError, InvalidDigestError
from ollamapy.store.names import parse_digest

_HIDDEN = ".partial-"
_READ = 1 << 20  # bytes hashed at a time
_JOURNAL = _HIDDEN + "journal-"


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """The digest of a file's content. Blocks; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


class BlobWriter:
    """A blob that is being received; close() or commit() ends it. One writer, any thread."""

    def __init__(self, folder: Path, journal: IO[str] | None = None) -> None:
        """journal: where the digest is noted before the blob gets its name."""
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_HIDDEN, dir=folder)
        os.fchmod(handle, 0o644)
        self._folder = folder
        self._journal = journal
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._hash = hashlib.sha256()
        self.size = 0
        fcntl.flock(handle, fcntl.LOCK_EX)

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def commit(self) -> str:
        """Put the blob in its place and return its digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        target = self._folder / self.digest.replace(":", "-")
        if self._journal is not None and not target.exists():
            self._journal.write(self.digest + "\n")
            self._journal.flush()
        self._path.rename(target)
        self._file.close()
        sync_folder(self._folder)
        return self.digest

    def close(self) -> None:
        """Forget the blob unless it was committed."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()


class Blobs:
    """The blobs folder of a store. It is created by the first write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = threading.local()  # .journal: of the writing() that a thread is in

    def path(self, digest: str) -> Path:
        """Where a blob lies or would lie. Raises InvalidDigestError."""
        return self.folder / parse_digest(digest).replace(":", "-")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def whole(self, digest: str, size: int) -> bool:
        """Whether a blob is there with all its bytes."""
        try:
            status = self.path(digest).stat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def existing(self, digest: str) -> Path:
        """The path of a blob. Raises BlobNotFoundError, InvalidDigestError."""
        path = self.path(digest)
        if not path.is_file():
            raise BlobNotFoundError(f"blob {digest} is not in the store")
        return path

    def writer(self) -> BlobWriter:
        return BlobWriter(self.folder, getattr(self._thread, "journal", None))

    def add(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Write a blob; returns its digest and size. An exception of the iterable leaves nothing behind."""
        writer = self.writer()
        try:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit(), writer.size
        finally:
            writer.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While this is held nobody prunes blobs.

        New blobs are noted in a journal that is locked like an unfinished blob: when we are killed before a manifest
        names them, the next tidy() knows that they belong to nobody.
        """
        with self._lock(fcntl.LOCK_SH):
            handle, name = tempfile.mkstemp(prefix=_JOURNAL, dir=self.folder)
            outer = getattr(self._thread, "journal", None)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                with os.fdopen(handle, "w", encoding="ascii") as journal:
                    self._thread.journal = journal
                    yield
                    Path(name).unlink(missing_ok=True)
            except Exception:
                Path(name).unlink(missing_ok=True)
                raise
            finally:
                self._thread.journal = outer

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for unfinished work that is gone afterwards, or after the next tidy() if we are killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=self.folder))
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)

    @contextlib.contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Keeps writers out; yields False, and keeps nobody out, when one is at work."""
        try:
            with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield True
        except BlockingIOError:
            yield False

    def digests(self, older_than: float = math.inf) -> set[str]:
        """Every blob in the folder that was last written before a time in seconds since 1970."""
        found = set()
        for path in self.folder.iterdir():
            with contextlib.suppress(InvalidDigestError, FileNotFoundError):  # what is not a blob is not ours
                digest = parse_digest(path.name)
                if path.stat().st_mtime < older_than:
                    found.add(digest)
        return found

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def tidy(self) -> set[str]:
        """Remove what writers that died left behind; returns the digests of blobs that they had not named yet."""
        orphans: set[str] = set()
        if self.folder.is_dir():
            for path in self.folder.glob(_HIDDEN + "*"):
                orphans |= _remove_if_unlocked(path)
        return orphans


def _remove_if_unlocked(path: Path) -> set[str]:
    """Returns the digests that a journal has."""
    noted: set[str] = set()
    with contextlib.suppress(OSError):  # gone, or locked by its writer
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                if path.name.startswith(_JOURNAL):
                    noted = set(path.read_text("ascii", "replace").split())
                path.unlink()
        finally:
            os.close(handle)
    return noted
