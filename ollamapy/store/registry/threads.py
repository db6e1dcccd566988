"""Work in threads that cannot be left halfway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def finish_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Like asyncio.to_thread(), but a cancellation is raised only after the function has ended: what it works
    on may be closed then."""
    future = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        raise
