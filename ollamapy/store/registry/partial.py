"""A blob that is being downloaded: its parts and how far each is, kept on disk so that a transfer resumes.

The files are Ollama's: `BLOB-partial` has the bytes at their places, `BLOB-partial-N` is a part's state, a JSON
object with N, Offset, Size and Completed. State that does not describe the blob whole and without gaps is thrown away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

import msgspec

from ollamapy.store.registry.errors import RegistryError

PARTS = 16
SMALLEST = 100_000_000  # bytes of a part, unless the blob is smaller
LARGEST = 1_000_000_000
_STATE_STEP = 1 << 20  # bytes between two notes of how far a part is


class Part(msgspec.Struct, rename={"n": "N", "offset": "Offset", "size": "Size", "completed": "Completed"}):
    """Bytes [offset, offset + size) of a blob, of which the first `completed` are there."""

    n: int
    offset: int
    size: int
    completed: int = 0

    @property
    def left(self) -> int:
        return self.size - self.completed


def split(size: int, smallest: int = SMALLEST) -> list[Part]:
    """A sixteenth of the blob each, within limits."""
    step = min(max(-(-size // PARTS), smallest), LARGEST)
    return [Part(n, offset, min(step, size - offset)) for n, offset in enumerate(range(0, size, step))]


class PartialBlob:
    """The unfinished file of one blob, locked against other processes while it is open. Blocks."""

    def __init__(self, blob: Path, size: int, smallest: int = SMALLEST) -> None:
        """Raises RegistryError when another process downloads it or the disk is too full, OSError."""
        blob.parent.mkdir(parents=True, exist_ok=True)
        self.path = blob.with_name(blob.name + "-partial")
        self._blob = blob
        self._smallest = smallest
        self.size = size
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RegistryError(f"{blob.name} is being downloaded by another process") from None
            self.parts = self._read()
            self.resumed = any(part.completed for part in self.parts)
            self._check_space()
            if not self.resumed:
                self.restart()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self.parts)

    def _check_space(self) -> None:
        left = self.size - self.completed
        free = shutil.disk_usage(self.path.parent).free
        if left > free:
            raise RegistryError(
                f"no space left on device: {left} bytes of {self._blob.name} are missing, {free} bytes are free"
            )

    def _state(self, n: int) -> Path:
        return self.path.with_name(f"{self.path.name}-{n}")

    def _states(self) -> list[Path]:
        return list(self.path.parent.glob(self.path.name + "-*"))

    def _read(self) -> list[Part]:
        """The parts as they were left, or none when they do not fit together."""
        parts = []
        for path in self._states():
            with contextlib.suppress(msgspec.MsgspecError, OSError):
                parts.append(msgspec.json.decode(path.read_bytes(), type=Part))
        parts.sort(key=lambda part: part.n)
        end = 0
        for n, part in enumerate(parts):
            if (part.n, part.offset) != (n, end) or not 0 <= part.completed <= part.size or part.size <= 0:
                return []
            end += part.size
        if end != self.size or os.fstat(self._file).st_size > self.size:
            return []
        return parts

    def restart(self) -> None:
        """Forget what is there."""
        for path in self._states():
            path.unlink(missing_ok=True)
        os.ftruncate(self._file, 0)
        self.parts = split(self.size, self._smallest)
        self.resumed = False
        for part in self.parts:
            self._note(part)

    def write(self, part: Part, data: bytes) -> None:
        """Append to a part. Raises RegistryError for more bytes than it has, OSError for a full disk."""
        if len(data) > part.left:
            raise RegistryError("the registry sent more than was asked for")
        position = part.offset + part.completed
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, position)
            position += written
            view = view[written:]
        before = part.completed
        part.completed += len(data)
        if part.completed // _STATE_STEP != before // _STATE_STEP or not part.left:
            self._note(part)

    def _note(self, part: Part) -> None:
        """Written in place as Ollama does: a state torn by a power cut cannot be read and costs a restart."""
        self._state(part.n).write_bytes(msgspec.json.encode(part))

    def commit(self) -> None:
        """Give the blob its name. Its digest has been checked."""
        os.fsync(self._file)
        self.path.rename(self._blob)
        for path in self._states():
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file and its states."""
        self.path.unlink(missing_ok=True)
        for path in self._states():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        for part in self.parts:
            if part.left and self._state(part.n).exists():
                with contextlib.suppress(OSError):
                    self._note(part)
        os.close(self._file)
