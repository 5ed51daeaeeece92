"""AnalyticCost: a step's time on a described device, from what the step has to do."""

from __future__ import annotations

from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad
from headrace.simulation.device import Device
from headrace.simulation.model_shape import ModelShape

ACTIVATION_BYTES = 2
OVERLAP = 3
"""Where products take about as long as the reading of their weights, they take longer than either:
tiles are not full, and one does not hide all of the other. The norm of this order of both times is
within 8 % of what Llama-2-7B's layers took on an A100 at 64 to 128 rows, where the longer one is
21 % too low (see benchmarks/published_speeds.py)."""
MEMORY_SHARE = 0.9
"""Of a device's memory that weights, workspace and cache may take together."""
STEP_ROWS = 2048  # rows of the largest step that workspace is kept for


class AnalyticCost:
    """A roofline by class of operator, times what is achievable, plus overheads (``StepCost``).

    Operations and bytes are counted as in ``execution/roofline.py`` (Williams, Waterman and
    Patterson 2009): the output matrix and attention each take the time of their operations or that
    of their bytes, whichever is longer, the products of all layers a little more than that (see
    ``OVERLAP``); a step takes the sum.
    Peaks and bandwidth count with the share of them that the device's file calls achievable.

    With ``tensor`` devices, weights, cache and products are split evenly, and each layer sums its
    rows over the devices twice, as a ring (Megatron-LM, arXiv:1909.08053, section 3). With
    ``stages`` layers are split evenly into a pipeline; ``seconds`` is the time through all of its
    stages and ``stage_seconds`` that through one, after which the next step can begin.
    """

    def __init__(
        self, device: Device, shape: ModelShape, *, tensor: int = 1, stages: int = 1
    ) -> None:
        """Raises ConfigError where the devices have no link, or the model cannot be split so."""
        check_split(device, shape, tensor, stages)
        self.device, self.shape = device, shape
        self.tensor, self.stages = tensor, stages
        bandwidth = device.bandwidth * device.reading
        products = device.rate(shape.products) * device.products * tensor
        layers, per_layer, state = shape.layers, shape.layer, shape.state
        self._row = 2.0 * ((layers - 1) * per_layer + state) / products
        self._sample = 2.0 * (per_layer - state) / products
        matrices = layers * per_layer * shape.matrix_bits / 8 / (bandwidth * tensor)
        self._matrices_norm = matrices**OVERLAP
        self._head_sample = 2.0 * shape.head / products
        self._head = shape.head * shape.head_bits / 8 / (bandwidth * tensor)
        width = 4.0 * shape.heads * shape.head_dim
        pair = width / (device.rate(shape.attention) * device.attention * tensor)
        self._pair, self._last_pair = (layers - 1) * pair, pair
        # Key-value heads fewer than devices are kept more than once.
        shares = min(tensor, shape.kv_heads)
        self._token = shape.token_bytes / (bandwidth * shares)
        self._layers = layers * device.layer_overhead
        self._step, self._sequence = device.step_overhead, device.sequence_overhead
        self._sum_latency = self._sum_row = self._hop_latency = self._hop_row = 0.0
        row_bytes = shape.hidden * ACTIVATION_BYTES
        if tensor > 1:
            hops = 2 * (tensor - 1)
            self._sum_latency = 2 * layers * hops * device.link_latency
            self._sum_row = 2 * layers * hops / tensor * row_bytes / device.link
        if stages > 1:
            self._hop_latency = (stages - 1) * device.link_latency
            self._hop_row = (stages - 1) * row_bytes / device.link

    def seconds(self, load: StepLoad) -> float:
        """Predicted time from a step's plan to the next one's."""
        return self._work(load) + self._step + self._sequence * load.slices

    def stage_seconds(self, load: StepLoad) -> float:
        """Time after which the first stage of the pipeline can take the next step."""
        return self._work(load) / self.stages + self._step + self._sequence * load.slices

    def _work(self, load: StepLoad) -> float:
        rows, samples = load.rows + load.padding, load.samples
        total = self._layers + self._sum_latency + self._hop_latency
        total += rows * (self._sum_row + self._hop_row)
        products = rows * self._row + samples * self._sample
        total += float((products**OVERLAP + self._matrices_norm) ** (1 / OVERLAP))
        if samples:
            head = samples * self._head_sample
            total += head if head > self._head else self._head
        attention = load.pairs * self._pair + load.sample_pairs * self._last_pair
        moved = (load.read + load.rows) * self._token
        return total + (attention if attention > moved else moved)


def check_split(device: Device, shape: ModelShape, tensor: int, stages: int) -> None:
    """Raises ConfigError where a model cannot be split over as many devices."""
    if tensor < 1 or stages < 1:
        raise ConfigError(f"tensor is {tensor} and stages is {stages}; both have to be at least 1")
    if shape.heads % tensor:
        raise ConfigError(
            f"{shape.name} has {shape.heads} heads, which {tensor} devices cannot share evenly"
        )
    if stages > shape.layers:
        raise ConfigError(f"{shape.name} has {shape.layers} layers, fewer than {stages} stages")
    if tensor * stages > 1 and not device.link:
        raise ConfigError(
            f"{device.name} has no link to others in its description; add [link] or use one device"
        )


def cache_blocks(
    device: Device,
    shape: ModelShape,
    *,
    block_size: int = 16,
    tensor: int = 1,
    stages: int = 1,
    memory_share: float = MEMORY_SHARE,
) -> int:
    """Cache blocks of ``block_size`` tokens beside the weights of a model on its devices.

    Workspace is the activations of a large step. Raises ConfigError where the model does not fit.
    """
    check_split(device, shape, tensor, stages)
    devices = tensor * stages
    widest = max(4 * shape.hidden + 2 * shape.intermediate // tensor, shape.vocabulary // 8)
    workspace = STEP_ROWS * widest * 2 * ACTIVATION_BYTES
    free = device.memory * memory_share - shape.weight_bytes / devices - workspace
    per_block = block_size * shape.token_bytes / (min(tensor, shape.kv_heads) * stages)
    count = int(free // per_block)
    if count < 1:
        raise ConfigError(
            f"{shape.name} with {shape.weight_bytes / 1e9:.1f} GB of weights does not fit"
            f" {devices} x {device.name} of {device.memory / 1e9:.0f} GB; use more of them,"
            " larger ones, or fewer bits a weight"
        )
    return count
