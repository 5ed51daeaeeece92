"""Quality of every number format: perplexity, agreement with float32, answers, size in memory.

``python -m benchmarks.quality --file F.json --text TEXT --chat CHAT.jsonl --questions GSM8K.jsonl``
makes a task and measures the formats that run here; float32 is what they are compared with. The
file keeps the task and all answers: later runs with it need no texts and measure the formats they
name only, and ``benchmarks.quality_peers`` adds other engines' rows. See docs/quality.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.quality_figures import table
from benchmarks.quality_file import BASE, QualityFile
from headrace.engine.config import CACHE_FORMATS, DEFAULT_MODEL, WEIGHTS
from headrace.environment import limit_spinning
from headrace.nouns.errors import ConfigError, HeadraceError

FORMATS = tuple(name for name in WEIGHTS if name != "auto")
CACHES = tuple(name for name in CACHE_FORMATS if name != "auto")
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"


def main() -> None:
    options = _parser().parse_args()
    limit_spinning()
    try:
        file = _open(options)
        if not options.table:
            _measure_all(file, options)
    except HeadraceError as error:
        raise SystemExit(str(error)) from error
    shown = table(file.rows, file.base, file.task)
    print(shown)
    if options.page:
        put_table(options.page, shown)


def put_table(page: Path, shown: str) -> None:
    """Replace what is between the marks of a page. Ends the program where they are missing."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END}; put them where the table goes")
    page.write_text(f"{before}{begin}\n{shown}\n{end}{after}", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--file", type=Path, required=True, help="task and answers; made if it is not there")
    add("--text", type=Path, help="text whose tokens are predicted, such as WikiText-2's test part")
    add("--chat", type=Path, help='JSON lines with "turns": first turns are continued greedily')
    add("--questions", type=Path, help='JSON lines with "question" and "answer", as in GSM8K')
    add("--windows", type=int, default=24, help="windows of the text, spread evenly")
    add("--window-tokens", type=int, default=512)
    add("--sample", type=int, default=100, help="questions asked, spread evenly over the file")
    add("--model", default=DEFAULT_MODEL)
    add("--weights", default=",".join(FORMATS), help="formats, with commas between them")
    add("--cache", default="bf16", help="formats of the cache, with commas: bf16, int8")
    add("--threads", type=int)
    add("--table", action="store_true", help="measure nothing, show the file's table")
    add("--page", type=Path, help="a Markdown page to put the table into")
    return parser


def _open(options: argparse.Namespace) -> QualityFile:
    if options.file.exists() or options.table:
        file = QualityFile.read(options.file)
        if options.text is None:
            return file
    elif options.text is None:
        raise SystemExit(f"{options.file} is not there; give --text (and --chat, --questions)")
    from benchmarks.quality_measure import Texts, make_task

    texts = Texts(
        options.text, options.windows, options.window_tokens, options.chat, options.questions,
        options.sample,
    )  # fmt: skip
    task = make_task(options.model, texts)
    if not options.file.exists():
        file = QualityFile(options.file, task)
        file.save()  # so that peers need not wait for the first row
        return file
    if task != file.task:
        raise SystemExit(
            f"{options.file} holds another task than these texts and counts make; name another"
            " --file, or leave --text out to go on with that task"
        )
    return file


def _measure_all(file: QualityFile, options: argparse.Namespace) -> None:
    from benchmarks.quality_measure import auto_format, measure

    named = _names(options.weights, WEIGHTS, "--weights")
    if "auto" in named:
        named = [auto_format(options.model) if name == "auto" else name for name in named]
    if file.base is None or BASE in named:
        named = [BASE, *(name for name in named if name != BASE)]
    wanted = options.weights != ",".join(FORMATS)
    for weights in dict.fromkeys(named):
        for cache in _names(options.cache, CACHES, "--cache")[: 1 if weights == BASE else None]:
            begun = time.perf_counter()
            try:
                row = measure(options.model, file.task, weights, cache, options.threads)
            except ConfigError as error:
                if wanted:
                    raise
                _say(f"{weights} with a {cache} cache does not run here: {error}")
                continue
            file.add(row)
            _say(f"{row.name}: measured in {time.perf_counter() - begun:.0f} s")


def _names(given: str, known: tuple[str, ...], option: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SystemExit(f"{option} has {name!r}; choose among {', '.join(known)}")
    return names


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
