"""Conversation: the turns of a chat, and the commands that act on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from headrace.cli.chat_input import LineSource
from headrace.cli.talker import Messages, Talker
from headrace.nouns.errors import HeadraceError, InvalidRequest

HELP = """\
/reset          forget the conversation
/system [TEXT]  set what the model is told first, or remove it; forgets the conversation
/save FILE      write the conversation as JSON messages
/help           show this
Ctrl-C stops an answer; twice, or Ctrl-D, leaves."""


class Conversation:
    """Reads turns from ``lines`` and answers them with ``talker`` until the user leaves.

    ``write`` shows pieces of an answer at once, ``tell`` whole lines about the chat itself.
    """

    def __init__(
        self,
        talker: Talker,
        lines: LineSource,
        write: Callable[[str], None],
        tell: Callable[[str], None],
        system: str | None = None,
    ) -> None:
        self._talker = talker
        self._lines = lines
        self._write = write
        self._tell = tell
        self._system = system
        self._turns: Messages = []
        self._failed = False

    @property
    def messages(self) -> Messages:
        """The conversation so far, the system message first."""
        first = [] if self._system is None else [{"role": "system", "content": self._system}]
        return first + self._turns

    def hold(self) -> bool:
        """Talks until the end of input or the second interrupt in a row.

        False if any answer failed.
        """
        interrupted = False
        while True:
            try:
                line = self._lines.read()
            except EOFError:
                return not self._failed
            except KeyboardInterrupt:
                if interrupted:
                    return not self._failed
                interrupted = True
                self._tell("Ctrl-C again or Ctrl-D leaves")
                continue
            interrupted = False
            if line.startswith("/") and "\n" not in line:
                self._obey(line)
            elif line.strip():
                interrupted = not self._answer(line)

    def _answer(self, line: str) -> bool:
        """Adds a turn and its answer; a stopped answer is kept. False if it was stopped."""
        self._turns.append({"role": "user", "content": line})
        pieces: list[str] = []
        stopped = False
        try:
            with closing(self._talker.reply(self.messages)) as reply:
                for piece in reply:
                    pieces.append(piece)
                    self._write(piece)
        except KeyboardInterrupt:
            stopped = True
        except HeadraceError as error:
            self._failed = True
            self._turns.pop()
            hint = "; /reset forgets the conversation" if isinstance(error, InvalidRequest) else ""
            self._write("\n" if pieces else "")
            self._tell(f"{error}{hint}")
            return True
        self._turns.append({"role": "assistant", "content": "".join(pieces)})
        self._write("\n")
        if stopped:
            self._tell("stopped; Ctrl-C again or Ctrl-D leaves")
        return not stopped

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command == "/reset":
            self._turns.clear()
            self._tell("the conversation is forgotten")
        elif command == "/system":
            self._system = rest or None
            self._turns.clear()
            self._tell("the system message is " + ("set" if rest else "removed"))
        elif command == "/save" and rest:
            self._save(Path(rest).expanduser())
        elif command == "/help":
            self._tell(HELP)
        else:
            self._tell(f"{line.split()[0]} is not understood here; /help lists the commands")

    def _save(self, path: Path) -> None:
        try:
            path.write_text(json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n")
        except OSError as error:
            self._tell(f"{path} cannot be written: {error.strerror}")
        else:
            self._tell(f"saved {len(self.messages)} messages to {path}")
