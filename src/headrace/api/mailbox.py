"""Mailbox: carries deltas from the engine's thread to an event loop, one wake-up per step."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from headrace.nouns.delta import Delta

Receiver: TypeAlias = Callable[[int, Delta, float], None]


class Mailbox:
    """``post`` may be called on any thread; receivers are called on the loop, in order.

    While a wake-up of the loop is due, further letters join it. The loop runs when the engine's
    thread lets go of the interpreter, in the next step's kernels: all of a step's letters share
    one wake-up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._letters: deque[tuple[Receiver, int, Delta, float]] = deque()
        self._due = False

    def post(self, receiver: Receiver, choice: int, delta: Delta, now: float) -> None:
        """``receiver(choice, delta, now)`` will be called on the loop; not if that has closed."""
        self._letters.append((receiver, choice, delta, now))
        if not self._due:
            self._due = True
            try:
                self.loop.call_soon_threadsafe(self._hand_out)
            except RuntimeError:  # the loop has closed: nobody is left to read
                self._letters.clear()

    def _hand_out(self) -> None:
        self._due = False  # before reading: a letter posted from here on asks for a new wake-up
        letters = self._letters
        while letters:
            receiver, choice, delta, now = letters.popleft()
            receiver(choice, delta, now)
