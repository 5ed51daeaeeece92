"""The service's door: many threads ask, submit and look while the engine works."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from headrace.engine.service import EngineService
from headrace.nouns.delta import Delta
from headrace.nouns.errors import InvalidRequest, QueueFull
from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.linear_cost import LinearCost
from tests.api.live_server import until
from tests.api.toy_engine import toy_service

COST = LinearCost({"step": 0.001, "rows": 1e-5})
TENANTS = Tenants({"a": Terms(max_waiting=4, max_running=2), "b": Terms(max_waiting=9)})


class Crowd:
    """Clients that submit and lookers that look, each on a thread; ``faults`` are what they met."""

    def __init__(self, service: EngineService) -> None:
        self.service = service
        self.faults: list[BaseException] = []
        self.refusals: list[QueueFull | InvalidRequest] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Until every client has sent what it has."""
        clients = [threading.Thread(target=self._guarded, args=(self._send, i)) for i in range(6)]
        lookers = [threading.Thread(target=self._guarded, args=(self._look, i)) for i in range(2)]
        for thread in (*clients, *lookers):
            thread.start()
        for thread in clients:
            thread.join(60)
        self._over.set()
        for thread in lookers:
            thread.join(60)

    def _guarded(self, act: Callable[[int], None], number: int) -> None:
        try:
            act(number)
        except BaseException as error:
            self.faults.append(error)

    def _send(self, seed: int) -> None:
        drawn = random.Random(seed)
        for number in range(40):
            request = self.service.request(
                [drawn.randrange(256) for _ in range(drawn.randint(1, 60))],
                SamplingParams(max_tokens=drawn.randint(1, 12), ignore_eos=True),
                n=drawn.randint(1, 3),
                id=f"{seed}.{number}",
                tenant=drawn.choice("abc"),
                targets=Targets(ttft=drawn.choice([None, 0.01, 1.0])),
            )
            try:
                self.service.submit(request, lambda delta: None)
            except (QueueFull, InvalidRequest) as refusal:
                self.refusals.append(refusal)
            if drawn.random() < 0.1:
                self.service.abort(request.id)

    def _look(self, number: int) -> None:
        usage = self.service.built.engine.scheduler.usage
        while not self._over.is_set():
            assert (self.service.predicted_wait() or 0.0) >= 0.0
            assert usage.waiting("a") <= 4
            assert usage.running("a") <= 2
            assert self.service.status().waiting <= 24
            self.service.explain(f"{number}.1")


def test_threads_that_ask_submit_and_look() -> None:
    """Nothing raises, bounds hold, everything let in ends, and nothing is left behind."""
    events: list[Event] = []
    service = toy_service(
        max_queue=24, max_sequences=6, step_seconds=0.001, tenants=TENANTS, cost=COST
    )
    service.add_sink(events.append)
    service.start()
    service.wait_ready(20)
    crowd = Crowd(service)
    crowd.run()
    assert crowd.faults == []
    until(lambda: service.status().running == service.status().waiting == 0)
    until(lambda: service.predicted_wait() == 0.0)
    outlook, door = service._outlook, service._door
    assert outlook is not None
    assert door is not None
    assert door.pending == 0
    assert (outlook._coming, outlook._promised) == ({}, {})
    usage = service.built.engine.scheduler.usage
    assert usage.waiting("a") == usage.running("a") == 0
    service.close()
    arrived = sum(int(event.data["n"]) for event in events if event.kind is Kind.ARRIVED)
    assert arrived == sum(event.kind in (Kind.FINISHED, Kind.ABORTED) for event in events)
    refused = [event for event in events if event.kind is Kind.REFUSED]
    assert len(refused) == len(crowd.refusals) > 0
    for error in crowd.refusals:
        if isinstance(error, QueueFull):
            assert error.retry_after >= 1.0
        else:
            assert error.code == "target_out_of_reach"


def test_what_the_engine_refuses_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    service = toy_service(cost=COST)
    service.start()
    service.wait_ready(20)
    engine = service.built.engine

    def refuse(request: object) -> None:
        raise InvalidRequest("the engine does not want it")

    monkeypatch.setattr(engine, "add", refuse)
    told: list[Delta] = []
    service.submit(service.request([1], SamplingParams(), id="r"), told.append)
    until(lambda: bool(told))
    assert told[0].error == "the engine does not want it"
    assert service._outlook is not None
    assert service._door is not None
    until(lambda: service._door is not None and service._door.pending == 0)
    assert service._outlook._coming == {}
    assert service.predicted_wait() == 0.0
    service.close()
