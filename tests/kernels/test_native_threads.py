"""The pool is shared: engines of one process take turns, and threads may be changed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from headrace.kernels.extension import load_extension

cpu: Any = load_extension().module
pytestmark = pytest.mark.skipif(cpu is None, reason="the C++ extension is not built here")


def test_products_of_many_threads_while_the_pool_changes() -> None:
    random = np.random.default_rng(3)
    weight = cpu.Weight.pack("int8", [("F32", random.standard_normal((320, 576), np.float32))])
    x = random.standard_normal((70, 576), dtype=np.float32)
    expected = cpu.product(weight, x)
    wrong: list[int] = []

    def multiply(who: int) -> None:
        for _ in range(200):
            if not np.array_equal(cpu.product(weight, x), expected):
                wrong.append(who)

    users = [threading.Thread(target=multiply, args=(i,)) for i in range(3)]
    for user in users:
        user.start()
    count = 0
    while any(user.is_alive() for user in users):
        count += 1
        cpu.set_threads(1 + count % 3)
    for user in users:
        user.join()
    cpu.set_threads(2)
    assert wrong == []


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_a_number_of_threads_that_makes_no_sense_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=r"threads must be in 1\.\.1024"):
        cpu.set_threads(threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    # In a process of its own: a child that waits for a turn which nobody ends would wait for ever.
    script = """if True:
        import os, threading
        import numpy as np
        from headrace.kernels.extension import load_extension

        cpu = load_extension().module
        cpu.set_threads(2)
        logits = np.random.default_rng(0).standard_normal((200, 500), np.float32)
        best = logits.argmax(-1).tolist()
        stop = threading.Event()

        def compute():
            while not stop.is_set():
                assert cpu.most_likely(logits) == best

        other = threading.Thread(target=compute)
        other.start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                cpu.set_threads(2)
                os._exit(7 if cpu.most_likely(logits) == best else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        stop.set()
        other.join()
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
