"""Work on files that may never answer: a stuck network file system, a dying disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Reading:
    """Blocking work, one piece after the other, each in a thread of its own. Nothing can stop a call of the system that
    does not return, so nobody has to wait for it: not the pool of threads that everything else uses, and not the end of
    the process."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._clock: int | None = None  # of the thread's processor time

    async def run(
        self, function: Callable[..., T], *arguments: object, stop: Callable[[], None] | None = None
    ) -> T:
        """What function returns or raises. A cancellation leaves it to itself. stop() lets it end, if it can."""
        self._stop = stop
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if outcome.done():
                return
            if error is None:
                outcome.set_result(result)  # type: ignore[arg-type] # what function returned
            else:
                outcome.set_exception(error)

        def work() -> None:
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the event loop is gone
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=work, name="reading", daemon=True).start()
        return await outcome

    def stop(self) -> bool:
        """Let the work end as soon as it can; False if there is no way to tell it."""
        if self._stop is None:
            return False
        self._stop()
        return True

    @property
    def progress(self) -> float:
        """Something that changes as long as the work goes on: the seconds that its thread has computed. One that waits
        for a disk computes nothing."""
        if self._clock is None:
            return 0.0
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the thread has ended
            return 0.0
