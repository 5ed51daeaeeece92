"""DeviceTransformer: the transformer on a device's operators, decode steps as captured graphs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from headrace.kernels.device.graphs import Capture, CudaCapture, Run
from headrace.kernels.device.operators import DeviceOperators
from headrace.kernels.device.step import StepShape, graph_shape
from headrace.kernels.layout import Layout
from headrace.models.config import ModelConfig
from headrace.models.model import ModelCache
from headrace.models.transformer import Transformer
from headrace.models.weights import WeightReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured step: what it reads, int64 [shape.size], and what runs it."""

    vector: torch.Tensor
    run: Run


class DeviceTransformer(Transformer):
    """A Transformer whose steps of single rows are captured once per padded shape and replayed.

    A graph belongs to one padded batch size and one padded context width (see ``graph_shape``) and
    is captured when such a step first comes, which takes about three steps' time. Steps with
    longer slices, steps too large to be padded, and measured ones (whose operators are wrapped)
    run operator by operator. ``capture`` None stands for CUDA's on a CUDA device and for no graphs
    elsewhere; where a capture fails there are no graphs from then on, and a warning says why.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: WeightReader,
        operators: DeviceOperators,
        max_context: int,
        capture: Capture | None = None,
    ) -> None:
        super().__init__(config, weights, operators, max_context)
        self.device_operators = operators
        if capture is None and operators.device.type == "cuda":
            capture = CudaCapture(operators.device)
        self._capture = capture
        self._graphs: dict[StepShape, Graph] = {}
        self._logits: dict[int, torch.Tensor] = {}
        self._cache: ModelCache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of weights and tables; a tied output matrix is the embedding, counted once."""
        twice = self._head.nbytes if self.config.tied_embeddings else 0
        return super().nbytes - twice

    @torch.inference_mode()
    def forward(self, layout: Layout, cache: ModelCache) -> torch.Tensor:
        """See Transformer.forward; the next call may overwrite the logits.

        Without logits it returns when the device is done: the step's time is known only then.
        """
        shape = self._graph_shape(layout)
        if shape is not None:
            logits = self._replay(shape, layout, cache)
            if logits is not None:
                return logits
        prepared = self.operators.prepare(layout, self.shape, self.rope)
        logits = self.compute(prepared, prepared.tokens, prepared.sampled, cache)
        if not len(layout.sampled) and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return logits

    def _graph_shape(self, layout: Layout) -> StepShape | None:
        if self._capture is None or self.operators is not self.device_operators:
            return None
        if not len(layout.sampled):
            return None  # what a graph always computes of every row is not wanted
        return graph_shape(layout, self.shape, self.cache_dtype.itemsize)

    def _replay(self, shape: StepShape, layout: Layout, cache: ModelCache) -> torch.Tensor | None:
        """The logits, or None where the step cannot be captured."""
        if cache is not self._cache:  # graphs hold the addresses of the cache they were made for
            self._graphs.clear()
            self._cache = cache
        uploader = self.device_operators.uploader
        graph = self._graphs.get(shape)
        if graph is not None:
            uploader.send(layout, shape, graph.vector)
        else:
            vector = torch.empty(shape.size, dtype=torch.int64, device=self.device)
            uploader.send(layout, shape, vector)
            graph = self._captured(vector, shape, cache)
            if graph is None:
                return None
            self._graphs[shape] = graph
        return graph.run()[: len(layout.sampled)]

    def _captured(self, vector: torch.Tensor, shape: StepShape, cache: ModelCache) -> Graph | None:
        assert self._capture is not None
        logits = self._logits.get(shape.padded)
        if logits is None:
            size = shape.padded, self.config.vocab_size
            logits = torch.empty(size, dtype=torch.float32, device=self.device)
            # one for all widths: outside the graphs' pool, so that it holds nothing between steps
            self._logits[shape.padded] = logits
        operators, out = self.device_operators, logits

        def run() -> torch.Tensor:
            prepared = operators.derive(vector, shape, self.shape, self.rope)
            found = self.compute(prepared, prepared.tokens, prepared.sampled, cache)
            return out.copy_(found)

        try:
            return Graph(vector, self._capture(run))
        except RuntimeError as error:
            log.warning("decode steps run without graphs: %s", str(error).splitlines()[0])
            self._capture = None
            self._graphs.clear()
            return None
