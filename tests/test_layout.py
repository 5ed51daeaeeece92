"""Rules of the repository that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "headrace"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON = sorted(
    path
    for folder in ("src", "tests", "benchmarks", "examples", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
TEXT = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *(ROOT / "docs").rglob("*.md"),
        *PACKAGE.rglob("*.cpp"),
        *PACKAGE.rglob("*.hpp"),
        ROOT / ".ci" / "run",
        *PYTHON,
    ]
    if path != Path(__file__).resolve()
)
PURE_ROOMS = ("scheduling", "memory", "nouns")
# Test modules, apart from the few that check the repository as a whole.
WHOLE_REPOSITORY = {"conftest.py", "test_layout.py", "__init__.py"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_files_stay_short_or_say_why() -> None:
    for path in PYTHON:
        lines = path.read_text(encoding="utf-8").splitlines()
        excused = any("Longer than 500 lines:" in line for line in lines[:10])
        assert len(lines) <= 500 or excused, f"{name(path)} has {len(lines)} lines"


def test_the_environment_is_read_in_one_module() -> None:
    reads = re.compile(r"\bos\.(environ\b|getenv\b|environb\b)|from os import .*\b(environ|getenv)")
    found = [name(p) for p in SOURCES if reads.search(p.read_text(encoding="utf-8"))]
    assert found == ["src/headrace/environment.py"]


def test_nothing_is_unpickled() -> None:
    forbidden = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    found = [name(p) for p in PYTHON if forbidden & {m.split(".")[0] for m in imports(p)}]
    assert found == []
    loads = re.compile(r"\btorch\.load\(|\ballow_pickle=True|trust_remote_code=True")
    assert [name(p) for p in SOURCES if loads.search(p.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_need_the_standard_library_only(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        others = {m.split(".")[0] for m in imports(path)} - sys.stdlib_module_names
        assert others <= {"headrace"}, f"{name(path)} imports {others - {'headrace'}}"


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_read_no_clock(room: str) -> None:
    clocks = {"time", "datetime"}
    found = [
        name(path)
        for path in (PACKAGE / room).rglob("*.py")
        if path != PACKAGE / "nouns" / "clock.py"
        and clocks & {m.split(".")[0] for m in imports(path)}
    ]
    assert found == []


def test_no_machine_paths_and_no_registry_hosts() -> None:
    machine = re.compile(r"/(work|farm|root|home/\w+)/|/tmp/\w")
    hosts = re.compile(r"\b(pypi\.org|pythonhosted\.org|npmjs\.(org|com)|deb\.debian\.org)\b")
    for path in TEXT:
        text = path.read_text(encoding="utf-8")
        for pattern in (machine, hosts):
            match = pattern.search(text)
            assert match is None, f"{name(path)}: {match and match[0]!r}"


def test_tests_mirror_the_rooms() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("*.py")}
    odd = {f for f in folders - rooms - WHOLE_REPOSITORY if not f.startswith("test_")}
    assert odd <= {"benchmarks", "examples", "scripts", "support"}, odd


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert commands[0].endswith("headrace serve")
    assert commands[1].endswith("/pytest")
    pattern = re.search(r"grep -m 1 -E '(.*)' README\.md", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert [c for c in commands if re.search(pattern[1], c)] == [commands[1]]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[<>=!~;\[ ]", line)[0].lower() for line in project["dependencies"]}
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").lower()
    reasons = design.partition("## why each dependency")[2].partition("\n## ")[0]
    missing = {d for d in named if f"| `{d}` |" not in reasons}
    assert missing == set()


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{name(path)} links to {target}"


def test_importing_headrace_loads_nothing_heavy() -> None:
    heavy = (
        "torch", "transformers", "tokenizers", "fastapi", "pydantic", "numpy", "rich", "typer",
        "uvicorn", "matplotlib", "gguf", "safetensors", "huggingface_hub", "jinja2", "aiohttp",
    )  # fmt: skip
    code = (
        "import sys, headrace, headrace.nouns.request, headrace.scheduling.registry\n"
        f"print(sorted(m for m in {heavy!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
