"""Where a chat's lines come from: an editor with history on a terminal, or any stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol, TextIO


class LineSource(Protocol):
    """``read`` returns what the user entered; EOFError at the end, KeyboardInterrupt on Ctrl-C."""

    def read(self) -> str: ...


class StreamLines:
    """A line a message, without a prompt, for pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def read(self) -> str:
        line = self._stream.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


class TerminalLines:
    """Line editing with a history that is kept. A pasted text may have many lines.

    Enter sends; Alt-Enter (or Escape, Enter) begins a new line.
    """

    def __init__(self, history: Path) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        kept: History = InMemoryHistory()
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch(mode=0o600)
            kept = FileHistory(str(history))
        except OSError as error:
            print(f"the history is not kept: {error}", file=sys.stderr)
        self._session: PromptSession[str] = PromptSession(history=kept, key_bindings=keys)

    def read(self) -> str:
        return self._session.prompt("> ")
