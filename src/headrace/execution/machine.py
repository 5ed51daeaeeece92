"""Machine: what this process may use of the computer it runs on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.execution.cgroup import read_limits, read_text
from headrace.kernels.extension import load_extension

# Names as in Linux's /proc/cpuinfo, which the extension uses too.
FEATURES = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512dq",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A memory node and the CPUs next to it that this process may use."""

    id: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts, not choices, except ``threads``: how many compute threads to run, and why.

    ``cpus`` are the logical CPUs that the process may run on, ``cores`` the physical cores behind
    them, ``quota`` the CPU time that the control group grants per wall time. Memory is in bytes;
    ``memory`` is what the process may use at most, ``memory_available`` what is left of it now.
    """

    system: str
    architecture: str
    processor: str
    features: tuple[str, ...]
    features_from: str
    cpus: tuple[int, ...]
    cpus_online: int
    cores: int
    quota: float | None
    numa: tuple[NumaNode, ...]
    memory: int
    memory_available: int
    memory_reason: str
    last_level_cache: int
    threads: int
    threads_reason: str


def detect_machine(root: Path = Path("/")) -> Machine:
    """Look at the machine; ``root`` is where its file system is read (tests give another)."""
    cpus = _affinity()
    cores = _physical_cores(cpus, root)
    limits = read_limits(root)
    threads, threads_reason = _threads(len(cpus), cores, limits.cpus)
    features, features_from = _features(root)
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    memory_reason = "the machine's memory"
    if limits.memory is not None and limits.memory < total:
        total, memory_reason = limits.memory, "the control group's limit"
        available = max(0, min(available, total - (limits.memory_used or 0)))
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        processor=_processor(root),
        features=features,
        features_from=features_from,
        cpus=cpus,
        cpus_online=os.cpu_count() or 1,
        cores=cores,
        quota=limits.cpus,
        numa=_numa(cpus, root),
        memory=total,
        memory_available=available,
        memory_reason=memory_reason,
        last_level_cache=_last_level_cache(cpus, root),
        threads=threads,
        threads_reason=threads_reason,
    )


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers of a list as the kernel writes it, such as ``0-3,8``; bad parts are left out."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last.isdecimal() or not last):
            found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _affinity() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _physical_cores(cpus: tuple[int, ...], root: Path) -> int:
    """Cores behind these CPUs: hyper-threads share their list of siblings."""
    folder = root / "sys/devices/system/cpu"
    siblings = {
        read_text(folder / f"cpu{cpu}/topology/thread_siblings_list").strip() for cpu in cpus
    }
    if "" not in siblings:
        return len(siblings)
    counted = psutil.cpu_count(logical=False)
    return min(len(cpus), counted or len(cpus))


def _threads(cpus: int, cores: int, quota: float | None) -> tuple[int, str]:
    """One thread a core: hyper-threads share the units that products run on, and a thread beyond
    the quota would be stopped while the others wait for it."""
    if quota is not None and quota < cores:
        return max(1, int(quota)), f"the control group grants {quota:g} CPUs"
    if cores < cpus:
        return cores, f"{cores} physical cores behind {cpus} hyper-threads"
    return cores, f"{cores} physical core{'s' if cores > 1 else ''} may be used"


def _features(root: Path) -> tuple[tuple[str, ...], str]:
    extension = load_extension().module
    if extension is not None:
        found = tuple(extension.cpu_features())
        if found:
            return found, "cpuid"
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            offered = set(flags.split())
            return tuple(name for name in FEATURES if name in offered), "/proc/cpuinfo"
    return (), "not known on this system"


def _processor(root: Path) -> str:
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _numa(cpus: tuple[int, ...], root: Path) -> tuple[NumaNode, ...]:
    """Nodes that hold one of these CPUs; a machine without the notion is one node."""
    nodes: list[NumaNode] = []
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        near = set(parse_cpu_list(read_text(folder / "cpulist"))) & set(cpus)
        number = folder.name.removeprefix("node")
        if near and number.isdecimal():
            nodes.append(NumaNode(int(number), tuple(sorted(near))))
    return tuple(sorted(nodes, key=lambda node: node.id)) or (NumaNode(0, cpus),)


def _last_level_cache(cpus: tuple[int, ...], root: Path) -> int:
    """Bytes of the largest cache the first of these CPUs reaches; 0 when unknown."""
    if not cpus:
        return 0
    sizes = [0]
    for folder in (root / f"sys/devices/system/cpu/cpu{cpus[0]}/cache").glob("index[0-9]*"):
        text = read_text(folder / "size").strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
        if unit and text[:-1].isdecimal():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes)
