"""The pool is shared: engines of one process take turns, and threads may be changed meanwhile."""

from __future__ import annotations

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
