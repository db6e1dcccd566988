"""From a command to a server: the address, errors as one line, and a server of our own where none listens."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ollamapy.server.settings import Address, parse_host

if TYPE_CHECKING:
    from ollamapy.client import Client

T = TypeVar("T")

_START_SECONDS = 30.0
NOT_RUNNING = "could not connect to ollama server, run 'ollamapy serve' to start it"


def server_address() -> Address:
    return parse_host(os.environ.get("OLLAMA_HOST", ""))


def new_client() -> Client:
    from ollamapy.client import Client

    return Client(server_address().url)


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; a failure becomes one line. Ctrl-C ends it."""
    from ollamapy.client import ClientError, NotConnectedError
    from ollamapy.types import RequestError

    try:
        return asyncio.run(work)
    except NotConnectedError:
        raise click.ClickException(NOT_RUNNING) from None
    except (ClientError, RequestError) as error:
        raise click.ClickException(str(error)) from None


async def listens(client: Client) -> bool:
    """Whether an Ollama server answers. Raises ClientError when something else does."""
    from ollamapy.client import NotConnectedError

    try:
        await client.call("GET", "/api/version")
    except NotConnectedError:
        return False
    return True


def log_path() -> Path:
    """Where a server that a command starts writes what it has to say."""
    return Path.home() / ".ollama" / "logs" / "ollamapy-server.log"


async def ensure_server(client: Client) -> None:
    """Start a server in the background unless one listens. Raises ClickException when that fails."""
    if await listens(client):
        return
    address = server_address()
    if not address.is_this_machine:
        raise click.ClickException(f"no server answers at {client.url}, which is not on this machine")
    log = log_path()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 (it only forks)
            [sys.executable, "-m", "ollamapy", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in this terminal is not for the server
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if await listens(client):
            click.echo(f"started a server on {address.text} (process {process.pid}, log {log})", err=True)
            return
        if process.poll() is not None:
            break
        await asyncio.sleep(0.05)
    raise click.ClickException(f"the server did not start; its log is {log}")
