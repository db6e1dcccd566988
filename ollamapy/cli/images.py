"""Paths of images in a prompt, which the prompt of a model that sees may have."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import click

_PATHS = re.compile(r"(?:[a-zA-Z]:)?(?:\./|/|\\)[\S\\ ]+?\.(?i:jpg|jpeg|png|webp)\b")
_ESCAPED = re.compile(r"\\([ ()\[\]{}$&;'\\*?~])")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
_MOST = 100 << 20  # bytes


def image_paths(text: str) -> list[str]:
    """What looks like paths of images, as they are written: blanks may be escaped."""
    return _PATHS.findall(text)


def take_images(text: str) -> tuple[str, list[str]]:
    """The text without the paths of images that exist, and the images in base64.

    Raises ClickException for a file that is no image, or too large a one.
    """
    images = []
    for written in image_paths(text):
        path = _ESCAPED.sub(r"\1", written)
        file = Path(path)
        if not file.is_file():
            continue
        data = file.read_bytes() if file.stat().st_size <= _MOST else b""
        if not data:
            raise click.ClickException(f"{path}: file size exceeds maximum limit (100MB)")
        if not data.startswith(_MAGIC):
            raise click.ClickException(f"{path} is no JPEG, PNG or WebP image")
        click.echo(f"Added image '{path}'", err=True)
        for quoted in (f"'{path}'", f"'{written}'", written):
            text = text.replace(quoted, "")
        images.append(base64.b64encode(data).decode())
    return text.strip(), images
