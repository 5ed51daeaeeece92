"""The soak's verdict on known samples, and its traffic on servers that misbehave."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from benchmarks.soak import MIB, Sample, parse_metrics, slope_per_minute, verdict
from benchmarks.soak_traffic import WRONG, Tally, Traffic

REST = Sample(
    at=1200.0, rss=500 * MIB, used_blocks=0, total_blocks=100, running=0, waiting=0,
    steps=9, requests=9, generated=9, preemptions=0,
)  # fmt: skip


def samples(growth_per_minute: float, warm_up: float = 100.0) -> list[Sample]:
    """Twenty minutes: memory grows by ``warm_up`` MiB in the first, then as given."""
    return [
        replace(REST, at=60.0 * i, rss=int((400 + warm_up * (i > 0) + growth_per_minute * i) * MIB))
        for i in range(21)
    ]


def failing(*args: object) -> list[str]:
    checks, _ = verdict(*args)  # type: ignore[arg-type]
    return [check.name for check in checks if not check.holds]


def test_a_good_soak_passes() -> None:
    assert failing(samples(0.0), REST, Tally(), 0) == []
    assert failing(samples(0.5), REST, Tally(), 0) == []


def test_each_fault_fails_its_check() -> None:
    bad = Tally()
    bad.surprise("whole", "HTTP 500")
    good = samples(0.0)
    assert failing(samples(3.0), REST, Tally(), 0) == ["memory flat"]
    assert failing(good, replace(REST, used_blocks=1), Tally(), 0) == ["no block in use at rest"]
    assert failing(good, replace(REST, waiting=1), Tally(), 0) == ["no sequence left"]
    assert failing(good, replace(REST, running=1), Tally(), 0) == ["no sequence left"]
    assert failing(good, REST, bad, 0) == ["no error that was not asked for"]
    assert failing(good, REST, Tally(), -9) == ["the server ended in good order"]


def test_the_slope_leaves_out_the_warm_up() -> None:
    _, slope = verdict(samples(2.0), REST, Tally(), 0)
    assert slope / MIB == pytest.approx(2.0)
    assert slope_per_minute(samples(2.0)[:1]) == 0.0


def test_a_single_sample_has_a_verdict() -> None:
    assert failing([REST], REST, Tally(), 0) == []


def test_metrics_are_read() -> None:
    text = '# HELP headrace_steps Steps.\nheadrace_steps 12.0\nheadrace_x{a="b c"} 3\n\nbroken\n'
    assert parse_metrics(text) == {"headrace_steps": 12.0}


async def soak_with(status: int, seconds: float = 0.3) -> Tally:
    """The traffic of four clients on a server that gives every request ``status``."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"error": {"message": "as told"}}, status=status)

    app = web.Application()
    app.router.add_post("/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    traffic = Traffic(f"http://127.0.0.1:{runner.addresses[0][1]}", seed=1)
    asyncio.get_running_loop().call_later(seconds, traffic.stopped.set)
    await traffic.run(4)
    await runner.cleanup()
    return traffic.tally


async def test_refusals_that_nobody_asked_for_are_surprises() -> None:
    tally = await soak_with(500)
    assert tally.done["surprise"] > 0
    assert all("500" in surprise for surprise in tally.surprises)


async def test_wrong_requests_that_are_let_through_are_surprises() -> None:
    tally = await soak_with(200)
    assert not tally.done["wrong"]
    assert tally.done["surprise"] > 0


async def test_nobody_there_is_a_surprise() -> None:
    traffic = Traffic("http://127.0.0.1:9", seed=1)
    asyncio.get_running_loop().call_later(0.1, traffic.stopped.set)
    await traffic.run(2)
    assert traffic.tally.done["surprise"] >= 2


def test_every_wrong_request_says_what_must_come() -> None:
    assert {status for _, _, status in WRONG} <= {400, 404}
