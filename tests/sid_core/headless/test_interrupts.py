"""Interrupts end what runs, also what misses the first try."""

import asyncio
import contextlib

import pytest

from sid_pack.sid_core.headless.interrupts import Interrupts


def test_work_that_swallows_a_cancellation_is_cancelled_again():
    interrupts = Interrupts()

    async def stubborn() -> None:
        # As libraries do that end something just then: the first cancellation is caught, and the work goes on.
        with contextlib.suppress(asyncio.CancelledError):
            interrupts.count += 1
            await asyncio.sleep(30)
        await asyncio.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(asyncio.wait_for(interrupts._watched(stubborn(), known=0), timeout=5))
