"""All programs, or those named: ``python -m benchmarks.papers [NAME ...]``.

Each runs in a process of its own. The findings go to ``docs/papers.json`` (those of programs that
were not run stay as they are) and the page to ``docs/papers.md``; ``--out`` names another pair.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.papers.claim import Finding
from benchmarks.papers.program import add_options, page

NAMES = (
    "flover_orca",
    "sarathi_serve",
    "sarathi",
    "fastgen",
    "prepacking",
    "past_future",
    "batchllm",
    "vtc_fairness",
    "verbose",
    "hyperparameters",
)


def run_one(name: str, arguments: list[str]) -> Finding | None:
    """The finding of a program; None where it failed (its own words are on standard error)."""
    command = [sys.executable, "-m", f"benchmarks.papers.{name}", "--json", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    return Finding.from_json(json.loads(done.stdout))


def read(path: Path) -> dict[str, Finding]:
    """Findings of an earlier run, by name."""
    if not path.exists():
        return {}
    found = [Finding.from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return {finding.name: finding for finding in found}


def write(findings: dict[str, Finding], out: Path) -> None:
    """Both files, in the order of the programs."""
    ordered = [findings[name] for name in NAMES if name in findings]
    data = [finding.to_json() for finding in ordered]
    out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(ordered), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, default=Path("docs/papers"), help="without ending")
    add_options(parser)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no program is called {', '.join(sorted(unknown))}")
    passed = ["--repeat", str(options.repeat), "--model", options.model, "--seed",
              str(options.seed), *(["--quick"] if options.quick else []),
              *(["--only", options.only] if options.only else [])]  # fmt: skip
    findings = read(options.out.with_suffix(".json"))
    failed = []
    for name in options.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        finding = run_one(name, passed)
        if finding is None:
            failed.append(name)
            continue
        findings[name] = finding
        print(f"{name}: {finding.verdict.value}, {finding.seconds:.0f} s", file=sys.stderr)
        write(findings, options.out)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
