"""Work in threads that cannot be left halfway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def until_done(work: asyncio.Future[Any]) -> None:
    """Wait for a thread's work even while we are being cancelled; its outcome is not looked at."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({work})


async def finish_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Like asyncio.to_thread(), but a cancellation is raised only after the function has ended: what it works
    on may be closed then."""
    work = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await until_done(work)
        raise
