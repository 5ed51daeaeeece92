"""``headrace chat``: through a pipe, through a terminal, against a server."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from headrace.api.keys import ApiKeys
from headrace.api.settings import ServerSettings
from headrace.cli.conversation import Conversation
from headrace.cli.talker import Messages
from headrace.nouns.errors import HeadraceError
from tests.api.live_server import LiveServer, serving
from tests.api.toy_engine import toy_service
from tests.cli.conftest import Invoke, Start


class Script:
    """Plays a user: texts are lines, exceptions are raised."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = iter(lines)

    def read(self) -> str:
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line


class Parrot:
    """Answers with the last message in pieces; ``STOP`` interrupts, ``FAIL`` fails."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked: list[Messages] = []
        self.closed = 0

    def reply(self, messages: Messages) -> Generator[str, None, None]:
        self.asked.append(list(messages))
        try:
            for word in messages[-1]["content"].split():
                if word == "STOP":
                    raise KeyboardInterrupt
                if word == "FAIL":
                    raise HeadraceError("the engine is out of sorts")
                yield word
        finally:
            self.closed += 1


def hold(*lines: str | type[BaseException], system: str | None = None) -> tuple[bool, str, Parrot]:
    parrot, shown = Parrot(), list[str]()
    talk = Conversation(
        parrot, Script(*lines), shown.append, lambda t: shown.append(t + "\n"), system
    )
    return talk.hold(), "".join(shown), parrot


def test_turns_build_on_each_other() -> None:
    fine, shown, parrot = hold("one", "two three", system="be brief")
    assert fine
    assert shown == "one\ntwothree\n"
    assert [(m["role"], m["content"]) for m in parrot.asked[1]] == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", "one"),
        ("user", "two three"),
    ]


def test_blank_lines_are_no_turns() -> None:
    assert hold("", "   ", "\n\n")[2].asked == []


def test_reset_and_system_begin_anew() -> None:
    parrot = hold("one", "/reset", "two", "/system be rude", "three", "/system", "four")[2]
    contents = [[m["content"] for m in asked] for asked in parrot.asked]
    assert contents == [["one"], ["two"], ["be rude", "three"], ["four"]]


def test_a_stopped_answer_stays_in_the_conversation() -> None:
    _, shown, parrot = hold("a b STOP c", "next")
    assert shown.startswith("ab\nstopped;")
    assert [m["content"] for m in parrot.asked[1]] == ["a b STOP c", "ab", "next"]
    assert parrot.closed == 2


def test_two_interrupts_leave() -> None:
    _, shown, parrot = hold("STOP", KeyboardInterrupt, "never")
    assert len(parrot.asked) == 1
    assert hold(KeyboardInterrupt, KeyboardInterrupt, "never")[2].asked == []
    assert "Ctrl-C again" in shown


def test_an_interrupt_and_a_message_do_not_leave() -> None:
    parrot = hold(KeyboardInterrupt, "one", KeyboardInterrupt, "two")[2]
    assert [asked[-1]["content"] for asked in parrot.asked] == ["one", "two"]


def test_a_failed_answer_takes_its_turn_back() -> None:
    fine, shown, parrot = hold("one FAIL", "two")
    assert not fine
    assert "the engine is out of sorts" in shown
    assert [m["content"] for m in parrot.asked[1]] == ["two"]


def test_a_pasted_text_is_one_turn_even_with_slashes() -> None:
    parrot = hold("/reset\nis a command")[2]
    assert parrot.asked[0][-1]["content"] == "/reset\nis a command"


def test_save_help_and_what_is_not_understood(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    missing = tmp_path / "no" / "talk.json"
    _, shown, _ = hold("hé", f"/save {path}", "/help", "/save", "/dance x", f"/save {missing}")
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"role": "user", "content": "hé"},
        {"role": "assistant", "content": "hé"},
    ]
    assert "saved 2 messages" in shown
    assert "/system [TEXT]" in shown
    assert "/save is not understood" in shown
    assert "/dance is not understood" in shown
    assert f"{missing} cannot be written: No such file" in shown


def test_through_a_pipe(invoke: Invoke) -> None:
    result = invoke("chat", input="hello\n/reset\nworld\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "hello\nworld\n"


def test_the_conversation_is_sent_whole(invoke: Invoke) -> None:
    """The toy model echoes its prompt, which holds all messages."""
    result = invoke("chat", "--system", "S", "--max-tokens", "20", input="ab\ncd\n")
    assert result.stdout == "Sab\nSabSabcd\n"


def test_a_conversation_that_outgrows_the_context(invoke: Invoke) -> None:
    result = invoke("chat", input="x" * 600 + "\nok\n")
    assert result.exit_code == 1
    assert "/reset forgets the conversation" in result.stderr
    assert result.stdout.endswith("ok\n")


def test_a_failing_answer_is_said(invoke: Invoke) -> None:
    result = invoke("chat", input="<fault>\nok\n")
    assert result.exit_code == 1
    assert "the logits are not finite" in result.stderr


@pytest.fixture(scope="module")
def locked() -> Iterator[LiveServer]:
    service = toy_service()
    with serving(service, ServerSettings(port=0, keys=ApiKeys({"secret": "me"}))) as live:
        service.wait_ready(20)
        yield live


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_against_a_server(
    invoke: Invoke, locked: LiveServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("HEADRACE_API_KEYS", "secret other")
    result = invoke("chat", "--url", locked.url + end, "--max-tokens", "3", input="hello\n")
    assert (result.exit_code, result.stdout) == (0, "hel\n")


def test_a_server_s_refusals(invoke: Invoke, locked: LiveServer, tmp_path: Path) -> None:
    result = invoke("chat", "--url", locked.url, input="hello\n")
    assert result.exit_code == 2
    assert "answered 401: no API key was given" in result.stderr
    keys = tmp_path / "keys"
    keys.write_text("# mine\n\nsecret me\n")
    base = ["chat", "--url", locked.url, "--api-key-file", keys]
    result = invoke(*base, input="x" * 600 + "\n<fault>\n")
    assert result.exit_code == 1
    assert "/reset forgets the conversation" in result.stderr
    assert "the answer failed: the logits are not finite" in result.stderr
    result = invoke(*base, "other-model", input="hello\n")
    assert "'other-model' is not served here" in result.stderr


@pytest.mark.parametrize(
    ("url", "told"), [("localhost:1", "must begin with http"), ("http://127.0.0.1:1", "reached")]
)
def test_a_server_that_is_not_there(invoke: Invoke, url: str, told: str) -> None:
    result = invoke("chat", "--url", url, input="hello\n")
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot be read"), ("# none\n", "holds no key")]
)
def test_a_key_file_without_a_key(
    invoke: Invoke, tmp_path: Path, content: str | None, told: str
) -> None:
    keys = tmp_path / "keys"
    if content is not None:
        keys.write_text(content)
    result = invoke("chat", "--url", "http://127.0.0.1:1", "--api-key-file", keys)
    assert result.exit_code == 2
    assert told in result.stderr


class Terminal:
    """A pseudo terminal with the program in it."""

    def __init__(self, start: Start, cache: Path, *args: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        env = {
            **os.environ, "HEADRACE_CACHE": str(cache), "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] = start(
            0.05, "chat", *args, stdin=slave, stdout=slave, stderr=slave, env=env,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._shown = ""

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Waits until what was shown since the last call matches."""
        until = time.monotonic() + 20
        while True:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown)
            match = re.search(pattern, plain)
            if match:
                self._shown = plain[match.end() :]
                return match[0]
            assert time.monotonic() < until, f"no {pattern!r} in {plain[-500:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self._shown += os.read(self._master, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it left before {pattern!r}: {plain[-500:]!r}") from None

    def left(self) -> int:
        """Its exit status."""
        until = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < until, "it does not leave"
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    os.read(self._master, 65536)
                except OSError:
                    continue
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(start: Start, tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(start, tmp_path / "cache")
    found.expect("toy: /help for help")
    found.expect(">")
    yield found
    found.close()


def test_a_terminal_streams_and_leaves_on_ctrl_d(terminal: Terminal, tmp_path: Path) -> None:
    terminal.send("hello\r")
    terminal.expect("hello\r*\n+hello\r*\n")
    terminal.expect(">")
    terminal.send("\x04")
    assert terminal.left() == 0
    history = tmp_path / "cache" / "chat_history"
    assert "hello" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_an_answer_and_twice_leaves(terminal: Terminal) -> None:
    terminal.send("q" * 70 + "z\r")
    terminal.expect("z\r*\n+qqq")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("stopped; Ctrl-C again")
    terminal.expect(">")
    terminal.send("/reset\r")
    terminal.expect("forgotten")
    terminal.expect(">")
    terminal.send("yes\r")
    terminal.expect("yes\r*\n+yes\r*\n")
    terminal.expect(">")
    terminal.send("\x03")
    terminal.expect("Ctrl-C again")
    terminal.expect(">")
    terminal.send("\x03")
    assert terminal.left() == 0


def test_a_pasted_text_of_many_lines_is_one_message(terminal: Terminal, tmp_path: Path) -> None:
    terminal.send("\x1b[200~one\ntwo\x1b[201~\r")
    terminal.expect(">")
    path = tmp_path / "talk.json"
    terminal.send(f"/save {path}\r")
    terminal.expect("saved 2 messages")
    assert json.loads(path.read_text())[0]["content"] == "one\ntwo"
