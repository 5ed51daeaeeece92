"""Machine facts, read from file systems made for the purpose."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.execution import ceilings, machine
from headrace.execution.cgroup import Limits, read_limits
from headrace.execution.machine import NumaNode, detect_machine, parse_cpu_list
from headrace.kernels.extension import Extension


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_no_limits_where_nothing_is_written(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits(None, None, None)


def test_version_2_takes_the_tightest_group_up_the_tree(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pod/box/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/pod/memory.max": "4000\n",
            "sys/fs/cgroup/pod/memory.current": "3000\n",
            "sys/fs/cgroup/pod/memory.stat": "anon 1000\ninactive_file 500\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
        },
    )
    assert read_limits(tmp_path) == Limits(cpus=1.5, memory=4000, memory_used=2500)


def test_the_group_with_the_least_left_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/memory.max": "4000\n",
            "sys/fs/cgroup/pod/memory.current": "3900\n",
            "sys/fs/cgroup/pod/box/memory.max": "3000\n",
            "sys/fs/cgroup/pod/box/memory.current": "100\n",
        },
    )
    assert read_limits(tmp_path) == Limits(None, memory=4000, memory_used=3900)


def test_version_1_and_its_way_of_saying_unlimited(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "7:cpu,cpuacct:/box\n5:memory:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2000\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "700\n",
            "sys/fs/cgroup/memory/box/memory.stat": "total_inactive_file 900\n",
        },
    )
    assert read_limits(tmp_path) == Limits(cpus=0.5, memory=2000, memory_used=0)


@given(st.dictionaries(st.sampled_from([
    "proc/self/cgroup", "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat",
]), st.text(max_size=40)))  # fmt: skip
def test_odd_files_never_raise(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(("0::/\n" + text if "proc" in name else text).encode("utf-8", "replace"))
    read_limits(root)


def test_a_group_path_cannot_leave_the_mount(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/../../etc\n", "sys/fs/cgroup/cpu.max": "2 1\n"})
    assert read_limits(tmp_path).cpus == 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3,8\n", (0, 1, 2, 3, 8)), ("5", (5,)), ("", ()), ("x,1-y,-2,7,²", (7,))],
)
def test_cpu_lists(text: str, expected: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == expected


@pytest.mark.parametrize(
    ("cpus", "cores", "quota", "threads", "reason"),
    [
        (8, 4, None, 4, "4 physical cores behind 8 hyper-threads"),
        (4, 4, 8.0, 4, "4 physical cores may be used"),
        (4, 4, 2.5, 2, "the control group grants 2.5 CPUs"),
        (4, 4, 0.5, 1, "the control group grants 0.5 CPUs"),
        (1, 1, None, 1, "1 physical core may be used"),
    ],
)
def test_threads(cpus: int, cores: int, quota: float | None, threads: int, reason: str) -> None:
    assert machine._threads(cpus, cores, quota) == (threads, reason)


def topology(siblings: dict[int, str]) -> dict[str, str]:
    folder = "sys/devices/system/cpu"
    return {
        f"{folder}/cpu{cpu}/topology/thread_siblings_list": text + "\n"
        for cpu, text in siblings.items()
    }


def test_hyper_threads_nodes_and_limits_of_a_made_up_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_affinity", lambda: (0, 1, 4, 5))
    monkeypatch.setattr(machine, "load_extension", lambda: Extension(None, "not built"))
    write(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: A Processor\nflags\t\t: sse avx2 fma odd_one\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": str(1 << 20),
            "sys/fs/cgroup/memory.current": str(1 << 19),
            "sys/devices/system/node/node1/cpulist": "4-7\n",
            "sys/devices/system/node/node0/cpulist": "0-3\n",
            "sys/devices/system/node/node2/cpulist": "8-9\n",
            "sys/devices/system/cpu/cpu0/cache/index2/size": "512K\n",
            "sys/devices/system/cpu/cpu0/cache/index3/size": "3M\n",
            **topology({0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}),
        },
    )
    found = detect_machine(tmp_path)
    assert found.processor == "A Processor"
    assert (found.features, found.features_from) == (("avx2", "fma"), "/proc/cpuinfo")
    assert (found.cpus, found.cores, found.threads) == ((0, 1, 4, 5), 2, 2)
    assert found.numa == (NumaNode(0, (0, 1)), NumaNode(1, (4, 5)))
    assert (found.memory, found.memory_reason) == (1 << 20, "the control group's limit")
    assert found.memory_available <= 1 << 19
    assert found.last_level_cache == 3 << 20


def test_an_unknown_system_still_gives_a_machine(tmp_path: Path) -> None:
    found = detect_machine(tmp_path)
    assert 1 <= found.cores <= len(found.cpus) <= found.cpus_online
    assert found.numa == (NumaNode(0, found.cpus),)
    assert 0 < found.memory_available <= found.memory
    assert found.last_level_cache == 0


def test_this_machine() -> None:
    found = detect_machine()
    assert 1 <= found.threads <= found.cores <= len(found.cpus)
    if hasattr(os, "sched_getaffinity"):
        assert set(found.cpus) == os.sched_getaffinity(0)


def test_ceilings_have_rates_and_say_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 8 << 20)
    found = detect_machine()
    measured = ceilings.measure_ceilings(found, seconds=0.0)
    assert [c.name for c in measured] == [
        "memory read", "float32 multiply-add", "bfloat16 multiply-add", "int8 multiply-add",
        "float32 product", "bfloat16 product", "int8 product",
    ]  # fmt: skip
    for ceiling in measured:
        assert ceiling.how
        assert ceiling.value is None or ceiling.value > 0
    assert measured[4].value is not None


def test_a_kind_without_an_instruction_says_so() -> None:
    found = ceilings.multiply_add("int3", 1, 0.0)
    assert found.value is None
    assert "instruction" in found.how or "extension" in found.how


def test_calls_are_timed_from_the_first_begin_to_the_last_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 11.5])
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert ceilings._together([lambda: None]) == 1.5


def test_ceilings_without_the_extension_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "load_extension", lambda: Extension(None, "not built"))
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 8 << 20)
    found = detect_machine()
    bandwidth = ceilings.read_bandwidth(found, 0.0)
    assert bandwidth.value is not None
    assert "numpy" in bandwidth.how
    assert ceilings.multiply_add("int8", 1, 0.0).value is None


def test_bandwidth_is_not_measured_in_a_cache_sized_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 4096)
    found = ceilings.read_bandwidth(detect_machine(), 0.0)
    assert found.value is None
    assert "too little memory" in found.how


def test_a_format_torch_cannot_multiply_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str, rows: int, side: int) -> object:
        raise RuntimeError("not on this device\nmore")

    monkeypatch.setattr(ceilings, "_product_of", refuse)
    found = ceilings.product("int8", 1, 0.0)
    assert (found.value, found.how) == (None, "torch cannot: not on this device")
