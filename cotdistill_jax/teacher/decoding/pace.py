"""Waiting: for the turn that a rate limit allows, and never longer than until the run is to stop."""

import asyncio
import time


class InterruptedRunError(RuntimeError):
    """Raised where a run would begin to wait, or to ask, after it was told to stop."""


class Stop:
    """Told once that the run is to stop; requests under way are finished, nothing new begins."""

    def __init__(self) -> None:
        """Makes one that is not set."""
        self._event = asyncio.Event()

    def set(self) -> None:
        """Tells the run to stop."""
        self._event.set()

    def check(self) -> None:
        """Raises `InterruptedRunError` if the run is to stop."""
        if self._event.is_set():
            raise InterruptedRunError("teacher decoding: the run was told to stop")

    async def sleep(self, seconds: float) -> None:
        """Waits; raises `InterruptedRunError` as soon as the run is to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self.check()


class Pace:
    """Gives turns to requests, evenly spaced so that neither limit is passed in any minute.

    The tokens of a request are counted as providers do: prompt plus the most that may be written.
    """

    def __init__(
        self,
        stop: Stop,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        """Makes a pace; None sets no limit.

        Raises:
            ValueError: a limit is not positive.
        """
        for limit in (requests_per_minute, tokens_per_minute):
            if limit is not None and limit <= 0:
                raise ValueError(f"teacher decoding: a rate limit must be positive, got {limit}")
        self._stop = stop
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._free_at = 0.0
        self._queue = asyncio.Lock()

    async def turn(self, num_tokens: int) -> None:
        """Returns when the next request of this many tokens may be sent.

        Raises:
            InterruptedRunError: the run is to stop.
        """
        async with self._queue:
            self._stop.check()
            while (wait := self._free_at - time.monotonic()) > 0:
                await self._stop.sleep(wait)
            gap = max(self._seconds_per_request, num_tokens * self._seconds_per_token)
            self._free_at = time.monotonic() + gap

    def pause(self, seconds: float) -> None:
        """Lets nobody have a turn for some seconds, as an endpoint asked."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)
