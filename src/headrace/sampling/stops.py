"""StopStrings: where a text ends because of what it says."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in a text that comes in pieces.

    The stop string that is complete first wins; of several that end at the same character, the
    longest. So the result is the same however the text is cut into pieces, and never has to
    wait for text after a complete stop string. Text is held back only while it is the start of
    some stop string, and only that much of it.

    An automaton over all stop strings at once (Aho, Corasick: Efficient String Matching, CACM
    18(6), 1975): each character is looked at once, whatever the number and length of the stops;
    a piece costs a copy of what is held back besides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """``stops`` are not empty strings; none at all is allowed."""
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._fail = [0]
        self._stop: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._link()
        self._starts = frozenset(self._next[0])
        self._state = 0
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Take ``text`` in: what may be given out now, and the stop string found, if any.

        A stop string is no part of what is given out; nothing is after one was found.
        """
        if self._matched is not None:
            return "", self._matched
        if not self._state and self._starts.isdisjoint(text):
            return text, None
        state = self._state
        for place, character in enumerate(text):
            state = self._step(state, character)
            stop = self._stop[state]
            if stop is not None:
                whole = self._held + text[: place + 1]
                self._held, self._matched = "", stop
                return whole[: len(whole) - len(stop)], stop
        self._state = state
        whole = self._held + text
        end = len(whole) - self._depth[state]
        self._held = whole[end:]
        return whole[:end], None

    def flush(self) -> str:
        """The text ends here: what was held back."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _step(self, state: int, character: str) -> int:
        while True:
            following = self._next[state].get(character)
            if following is not None:
                return following
            if not state:
                return 0
            state = self._fail[state]

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            following = self._next[state].get(character)
            if following is None:
                following = len(self._next)
                self._next[state][character] = following
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._fail.append(0)
                self._stop.append(None)
            state = following
        self._stop[state] = stop

    def _link(self) -> None:
        """Link each state to that of its longest proper suffix, nearest to the root first."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self._next[state].items():
                self._fail[following] = self._step(self._fail[state], character)
                if self._stop[following] is None:
                    self._stop[following] = self._stop[self._fail[following]]
                queue.append(following)
