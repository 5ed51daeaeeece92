"""EngineService: an engine on a thread of its own, for callers on any other."""

from __future__ import annotations

import asyncio
import logging
import operator
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.engine.build import BuiltEngine, ModelInfo, build
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.explanation import explain
from headrace.engine.journal import Journal
from headrace.engine.sinks import Sinks
from headrace.engine.stream import AsyncStream, Mailbox
from headrace.nouns.delta import Delta
from headrace.nouns.errors import (
    ContextLengthExceeded,
    EngineStopped,
    HeadraceError,
    InvalidRequest,
    QueueFull,
)
from headrace.nouns.event import Sink
from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from headrace.nouns.tenant import Tenants
from headrace.scheduling.door import Door
from headrace.scheduling.outlook import Outlook

log = logging.getLogger(__name__)

REST = 1.0  # seconds idle before the integrity check
HELD_BACK = 0.001

OnDelta = Callable[[Delta], None]
Report = Callable[[str], None]
Builder = Callable[[EngineConfig, Sink, Report], BuiltEngine]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A look at the service. Ages and durations in seconds; ``failure`` says what broke it."""

    ready: bool
    draining: bool
    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    last_step_age: float | None
    steps: int
    failure: str | None


@dataclass(slots=True)
class _Client:
    """Who listens to a request, and which of its sequences have not ended."""

    on_delta: OnDelta
    open: set[int]


class EngineService:
    """Loads a model and serves requests on its own thread; every method may be called anywhere.

    Life: ``start`` -> ready -> ``drain`` -> ``close``. If the engine's own code fails, every open
    request ends with an error and the service refuses further ones.
    """

    def __init__(
        self,
        config: EngineConfig,
        sinks: Iterable[Sink] = (),
        report: Report = log.info,
        builder: Builder = build,
    ) -> None:
        self.config = config
        self._report = report
        self._builder = builder
        self._journal = Journal()
        self._sinks = Sinks((self._journal, *sinks))
        self._built: BuiltEngine | None = None
        self._outlook: Outlook | None = None  # this and the door are there when ``_built`` is
        self._door: Door | None = None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._clients: dict[str, _Client] = {}
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._loaded = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._at_door = threading.Lock()
        self._draining = self._stopping = False
        self._failure: BaseException | None = None
        self._busy_since: float | None = None
        self._last_step: float | None = None
        self._thread = threading.Thread(target=self._run, name="headrace-engine", daemon=True)

    # Life

    def start(self) -> None:
        """Returns at once; the model loads on the engine's thread."""
        self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Blocks until the model is loaded. Raises what loading raised, or TimeoutError."""
        if not self._loaded.wait(timeout):
            raise TimeoutError(f"the model was not loaded within {timeout} s")
        if self._failure is not None:
            raise self._failure

    @property
    def ready(self) -> bool:
        return self._built is not None and self._failure is None and not self._draining

    @property
    def tenants(self) -> Tenants:
        """The terms of all tenants."""
        return self.config.tenants

    def most_waiting(self, tenant: str) -> int:
        """How many of a tenant's sequences may wait at once; more can never be served together."""
        own = self.config.tenants.terms(tenant).max_waiting
        return min(own or self.config.max_queue, self.config.max_queue)

    @property
    def built(self) -> BuiltEngine:
        """The engine and what it was built from. Raises EngineStopped before it is ready."""
        if self._built is None and self._failure is not None:
            raise EngineStopped(f"the model could not be loaded: {self._failure}")
        if self._built is None:
            raise EngineStopped("the model is not loaded yet; wait until /ready answers 200")
        return self._built

    @property
    def model(self) -> ModelInfo:
        return self.built.model

    def drain(self, timeout: float) -> bool:
        """Takes no new work and waits for the rest; aborts what is left after ``timeout``.

        True if everything ended in time.
        """
        with self._lock:
            self._draining = True
        if not self._thread.is_alive() or self._idle.wait(timeout):
            return True
        self._inbox.put(lambda: self._abort_all("the server is shutting down"))
        self._idle.wait(5.0)
        return False

    def close(self) -> None:
        """Stops the thread; open requests are aborted."""
        with self._lock:
            self._draining = self._stopping = True
        self._inbox.put(lambda: self._abort_all("the engine is closing"))
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    # Requests

    def request(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams,
        *,
        n: int = 1,
        id: str | None = None,
        tenant: str = "default",
        priority: int | None = None,
        targets: Targets = Targets(),
        category: str = "",
    ) -> Request:
        """A request with its open ends resolved: id, seed, end tokens, most output tokens.

        What ``priority`` and ``targets`` leave open is as in the tenant's terms. Raises
        InvalidRequest for what is no token of the vocabulary, more output than the tenant may ask
        for or a deadline that has passed, and ContextLengthExceeded when the prompt leaves no room
        for output or ``max_tokens`` asks for more than is left.
        """
        built, model = self.built, self.model
        terms, arrival = self.config.tenants.terms(tenant), self.now()
        targets = targets.over(terms.targets.since(arrival))
        if targets.deadline is not None and targets.deadline <= arrival:
            late = arrival - targets.deadline
            raise InvalidRequest(
                f"the deadline passed {late:g} s ago; set it later", "targets.deadline"
            )
        if terms.max_tokens is not None and (params.max_tokens or 1) > terms.max_tokens:
            raise InvalidRequest(
                f"max_tokens is {params.max_tokens}; the tenant {tenant!r} may ask for"
                f" {terms.max_tokens} at most",
                "max_tokens",
            )
        try:
            prompt = tuple(operator.index(token) for token in prompt_ids)
        except TypeError as error:
            raise InvalidRequest(f"the prompt has to be token ids: {error}", "prompt") from None
        capacity = built.total_blocks * built.block_size
        room = min(model.max_context, capacity + 1) - len(prompt)
        if room < 1 or (params.max_tokens or 1) > room:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens and asks for {params.max_tokens or 1} more;"
                f" context length is {model.max_context} and the cache holds {capacity} tokens."
                " Shorten the prompt or lower max_tokens"
            )
        self._check_vocabulary("prompt", prompt)
        self._check_vocabulary("logit_bias", [token for token, _ in params.logit_bias])
        self._check_vocabulary("stop_token_ids", params.stop_token_ids)
        return Request(
            id=id or f"req-{secrets.token_hex(12)}",
            prompt=prompt,
            max_tokens=params.max_tokens or min(room, terms.max_tokens or room),
            params=params,
            n=n,
            arrival=arrival,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            eos_ids=frozenset() if params.ignore_eos else model.eos_ids,
            tenant=tenant,
            priority=terms.priority if priority is None else priority,
            targets=targets,
            category=category,
        )

    def now(self) -> float:
        """The engine's clock: seconds since some moment, on which deadlines are absolute times.

        Raises EngineStopped before it is ready.
        """
        return self.built.engine.clock.now()

    def submit(self, request: Request, on_delta: OnDelta) -> None:
        """Queues a request. ``on_delta`` is called on the engine's thread and must not block.

        Raises EngineStopped, QueueFull or InvalidRequest at once.
        """
        built, door = self.built, self._door
        assert door is not None
        most = self.most_waiting(request.tenant)
        if request.n > most:
            raise InvalidRequest(f"n is {request.n} and the queue holds {most}; lower n", "n")
        now = built.engine.clock.now()
        with self._at_door:  # the engine's thread never waits here
            with self._lock:
                self._check_alive()
            refusal = door.refusal(request, now)
            if refusal is None:
                with self._lock:
                    self._check_alive()
                    if request.id in self._clients:
                        raise InvalidRequest(f"request id {request.id!r} is in use", "id")
                    self._clients[request.id] = _Client(on_delta, set(range(request.n)))
                    door.enter(request, now)
                    self._idle.clear()
                    self._inbox.put(lambda: self._add(request))
                return
        self._inbox.put(lambda: self._sinks(refusal.event(request, now)))
        if refusal.retry_after is None:
            raise InvalidRequest(refusal.message, "targets", refusal.cause.value)
        raise QueueFull(refusal.message, refusal.retry_after, refusal.cause.value)

    def stream(self, request: Request) -> AsyncStream:
        """Queues a request and returns its deltas for the running event loop. As ``submit``."""
        loop = asyncio.get_running_loop()
        with self._lock:
            open_loops = {at: box for at, box in self._mailboxes.items() if not at.is_closed()}
            mailbox = open_loops.setdefault(loop, Mailbox(loop))
            self._mailboxes = open_loops
        stream = AsyncStream(request.id, request.n, self.abort)
        self.submit(request, lambda delta: mailbox.post(stream, delta))
        return stream

    def abort(self, request_id: str) -> None:
        """Ends a request, if it has not ended; its memory is free within a step."""
        self._inbox.put(lambda: self._abort(request_id, "the client went away"))

    # Looking in

    def status(self) -> ServiceStatus:
        built, now = self._built, time.monotonic()
        busy = self._busy_since
        failure = None if self._failure is None else str(self._failure)
        if failure is None and busy is not None and now - busy > self.config.watchdog:
            failure = f"a step has been running for {now - busy:.0f} s; the engine hangs"
        scheduler = None if built is None else built.engine.scheduler
        return ServiceStatus(
            ready=self.ready and failure is None,
            draining=self._draining,
            running=0 if scheduler is None else len(scheduler.running),
            waiting=0 if self._door is None else self._door.waiting,
            free_blocks=0 if scheduler is None else scheduler.memory.available,
            total_blocks=0 if scheduler is None else scheduler.memory.total,
            last_step_age=None if self._last_step is None else now - self._last_step,
            steps=0 if built is None else built.engine.steps,
            failure=failure,
        )

    def explain(self, request_id: str) -> dict[str, object] | None:
        """What a request waits or waited for, how long and why; None if it is not known."""
        built = self._built
        if built is None:
            return None
        sequences = built.engine.scheduler.sequences(request_id)
        events, now = self._journal.events(request_id), built.engine.clock.now()
        assert self._outlook is not None
        starts = self._outlook.starts(request_id, now) if sequences else {}
        return explain(request_id, sequences, events, now, starts)

    def predicted_wait(self) -> float | None:
        """Seconds until a request that came now, behind all others, would start to be computed.

        None where that is not known: before the model is loaded, and without a cost of steps until
        some requests have ended.
        """
        if self._built is None or self._outlook is None:
            return None
        return self._outlook.wait(self.now())

    def add_sink(self, sink: Sink) -> None:
        """Events from now on go to ``sink`` too, on the engine's thread."""
        self._sinks.add(sink)

    # The engine's thread

    def _run(self) -> None:
        try:
            built = self._builder(self.config, self._sinks, self._report)
            self._outlook = Outlook(built.engine.scheduler)
            self._door = Door(built.engine.scheduler, self.config.max_queue, self._outlook)
            self._built = built
            if built.lengths is not None:
                self._sinks.add(built.lengths)
        except BaseException as error:  # whatever it is, wait_ready raises it to the caller
            self._failure = error
            self._loaded.set()
            return
        self._loaded.set()
        try:
            self._serve(self._built.engine)
        except Exception as error:
            log.exception("the engine failed")
            self._fail(error)
        finally:
            self._built.engine.executor.close()
            if self._built.lengths is not None:
                self._built.lengths.close()

    def _serve(self, engine: Engine) -> None:
        assert self._outlook is not None
        look, now = self._outlook.look, engine.clock.now
        while True:
            if not engine.has_work:
                self._rest(engine)
            self._read_inbox()
            if self._stopping and not engine.has_work:
                return
            before = engine.steps
            self._busy_since = time.monotonic()
            deltas = engine.step()
            self._busy_since = None
            if engine.steps > before:
                self._last_step = time.monotonic()
                self._deliver(deltas)
                look(now())
            elif engine.has_work:  # a policy holds everybody back: do not spin
                time.sleep(HELD_BACK)

    def _rest(self, engine: Engine) -> None:
        """Waits for something to do; looks for damage once the rest has lasted a while."""
        assert self._outlook is not None
        self._outlook.look(engine.clock.now())
        with self._lock:
            if not self._clients:
                self._idle.set()
        try:
            act = self._inbox.get(timeout=REST)
        except queue.Empty:
            engine.scheduler.check_integrity()
            act = self._inbox.get()
        act()

    def _read_inbox(self) -> None:
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _add(self, request: Request) -> None:
        assert self._door is not None and self._outlook is not None
        try:
            self.built.engine.add(request)
        except HeadraceError as error:
            self._outlook.gone(request)
            ended = [
                Delta(request.id, i, finish_reason=FinishReason.ERROR, error=str(error))
                for i in range(request.n)
            ]
            self._deliver(ended)
        finally:
            self._door.passed(request)

    def _abort(self, request_id: str, why: str) -> None:
        self._deliver(self.built.engine.abort(request_id, why))

    def _abort_all(self, why: str) -> None:
        for request_id in list(self._clients):
            self._abort(request_id, why)

    def _deliver(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            client = self._clients.get(delta.request_id)
            if client is None:
                continue
            if delta.finish_reason is not None:
                client.open.discard(delta.index)
                if not client.open:
                    with self._lock:
                        del self._clients[delta.request_id]
            self._tell(client, delta)
        for mailbox in list(self._mailboxes.values()):
            mailbox.flush()

    def _fail(self, error: Exception) -> None:
        """The engine's own code broke: everybody is told, nothing more is taken."""
        with self._lock:
            self._failure = error
            clients, self._clients = self._clients, {}
        message = f"the engine failed: {error}"
        for request_id, client in clients.items():
            for index in client.open:
                delta = Delta(request_id, index, finish_reason=FinishReason.ERROR, error=message)
                self._tell(client, delta)
        for mailbox in list(self._mailboxes.values()):
            mailbox.flush()
        self._idle.set()

    @staticmethod
    def _tell(client: _Client, delta: Delta) -> None:
        try:
            client.on_delta(delta)
        except Exception:  # one listener's fault is nobody else's
            log.exception("a listener of request %s failed", delta.request_id)

    def _check_vocabulary(self, param: str, tokens: Iterable[int]) -> None:
        size = self.model.vocab_size
        for token in tokens:
            if not 0 <= token < size:
                raise InvalidRequest(
                    f"{param} has token {token}; the vocabulary is 0 to {size - 1}", param
                )

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise EngineStopped(f"the engine has failed: {self._failure}; restart the server")
        if self._draining:
            raise EngineStopped("the server is shutting down and takes no new requests")
