"""`ollamapy --version`: the server's version, as Ollama's own command tells it, and ours."""

from __future__ import annotations

import asyncio

import click

from ollamapy import API_VERSION, __version__
from ollamapy.cli.connection import new_client
from ollamapy.client import ClientError

_SECONDS = 5.0  # for an answer


async def _ask() -> str:
    """The version that the server tells, "" where none answers as one."""
    async with new_client() as client:
        try:
            answer = await asyncio.wait_for(client.call("GET", "/api/version"), _SECONDS)
        except (ClientError, asyncio.TimeoutError):  # not the built-in one before Python 3.11
            return ""
    version = (answer or {}).get("version")
    return version if isinstance(version, str) else ""


def print_version() -> None:
    """The first two lines and their order are Ollama's; its "client version" is the API that this program serves."""
    served = asyncio.run(_ask())
    if served:
        click.echo(f"ollama version is {served}")
    else:
        click.echo("Warning: could not connect to a running Ollama instance")
    if served != API_VERSION:
        click.echo(f"Warning: client version is {API_VERSION}")
    click.echo(f"ollamapy version is {__version__}")
