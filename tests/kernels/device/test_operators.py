"""Device operators: the self-check, agreement with the reference, and nothing left on the host."""

from __future__ import annotations

import pytest
import torch

from headrace.kernels.device import attention
from headrace.kernels.device.attention import FusedAttention, LadderAttention, choose_attention
from headrace.kernels.device.linear import ROWS, Ladders
from headrace.kernels.device.operators import DeviceOperators
from headrace.kernels.device.step import Uploader
from headrace.kernels.dispatch import choose
from headrace.kernels.operators import HeadNorms, LayerCache
from headrace.kernels.rope import rope_tables
from headrace.kernels.self_check import Cache, check_operators
from tests.kernels.device.test_step import NULL, SHAPE, layout_of
from tests.support.dataless import no_data
from tests.support.devices import on_devices

DTYPES = (torch.float32, torch.bfloat16)
SLICES = [(5, 1), (270, 1), (0, 40), (300, 9)]
BLOCKS = 64


def operators(device: str, dtype: torch.dtype, head_dim: int = 64) -> DeviceOperators:
    where = torch.device(device)
    return DeviceOperators(where, dtype, choose_attention(where, head_dim, dtype)[0])


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_self_check_passes(device: str, dtype: torch.dtype) -> None:
    checks = check_operators(operators(device, dtype))
    assert len(checks) == 4
    assert [c for c in checks if not c.passed] == []


def test_the_self_check_tells_where_rows_depend_on_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fused attention is not independent in float32 on any CPU known; were it, this must go."""
    cpu = torch.device("cpu")
    if not attention.probe(FusedAttention(), cpu, 64, torch.float32):
        pytest.skip("this processor's fused attention passes the probe")
    doubtful = DeviceOperators(cpu, torch.float32, FusedAttention())
    monkeypatch.setattr(doubtful.ladders, "rungs", lambda like: tuple(range(1, 201)))
    failed = [c.name for c in check_operators(doubtful) if not c.passed]
    assert "a row's attention is the same in any batch" in failed


class Parts:
    """One layer's operators on random data, in a cache of ``BLOCKS`` blocks and the null block."""

    def __init__(self, ops: object, dtype: torch.dtype, device: str, norms: bool) -> None:
        generator = torch.Generator().manual_seed(9)
        rows = (BLOCKS + 1) * SHAPE.kv_heads
        width = (SHAPE.heads + 2 * SHAPE.kv_heads) * SHAPE.head_dim
        self.layout = layout_of(SLICES, padding=3, null_block=BLOCKS)
        self.qkv = torch.randn(self.layout.padded, width, generator=generator)
        past = torch.randn(2, rows, 16 * SHAPE.head_dim, generator=generator)
        past[:, BLOCKS * SHAPE.kv_heads :] = 0.0
        self.cache: LayerCache = Cache(*past.to(device, dtype))
        weight = 1 + 0.1 * torch.randn(
            SHAPE.heads + SHAPE.kv_heads, SHAPE.head_dim, generator=generator
        )
        self.norms = HeadNorms(weight.to(device), 1e-6) if norms else None
        self.rope = rope_tables([1.0 / 3**i for i in range(SHAPE.head_dim // 2)], 512, 1.0, device)
        self.ops: DeviceOperators = ops  # type: ignore[assignment]

    def run(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys, values and attention's result, on the CPU."""
        prepared = self.ops.prepare(self.layout, SHAPE, self.rope)
        qkv = self.qkv.to(self.ops.device, self.ops.weight_dtype)
        q = self.ops.rotate_store(qkv, self.cache, prepared, self.norms)
        y = self.ops.attention(q, self.cache, prepared)
        return tuple(t.float().cpu() for t in (self.cache.keys, self.cache.values, y))  # type: ignore[return-value]


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", [False, True])
def test_a_layer_agrees_with_the_reference(device: str, dtype: torch.dtype, norms: bool) -> None:
    name = str(dtype).removeprefix("torch.")
    expected = Parts(choose(name, SHAPE.head_dim).operators, dtype, "cpu", norms).run()
    parts = Parts(operators(device, dtype, SHAPE.head_dim), dtype, device, norms)
    found = parts.run()
    rows = parts.layout.rows
    tolerance = 20 * torch.finfo(dtype).eps
    for a, b in zip(found, expected, strict=True):
        assert (a[:rows] - b[:rows]).abs().max() <= tolerance * b.abs().max()
    assert not found[2][rows:].any()
    for state in found[:2]:  # the null block stays zero
        assert not state[BLOCKS * SHAPE.kv_heads :].any()


@on_devices
def test_nothing_of_other_blocks_reaches_a_row(device: str) -> None:
    ops = operators(device, torch.float32, SHAPE.head_dim)
    clean, dirty = (Parts(ops, torch.float32, device, False) for _ in range(2))
    used = set(clean.layout.tables.tolist())
    for block in set(range(BLOCKS)) - used:
        rows = slice(block * SHAPE.kv_heads, (block + 1) * SHAPE.kv_heads)
        dirty.cache.keys[rows], dirty.cache.values[rows] = torch.nan, torch.inf
    dirty.qkv[dirty.layout.rows :] = torch.nan  # rows of padding
    rows = clean.layout.rows
    assert torch.equal(dirty.run()[2][:rows], clean.run()[2][:rows])


@on_devices
def test_gate(device: str) -> None:
    ops = operators(device, torch.float32)
    gate, up, x = (torch.randn(n, 48, device=device) for n in (20, 20, 5))
    y = ops.gated_linear(x, ops.pack_gated(gate, up))
    expected = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
    assert torch.allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_no_tensor_of_a_step_stays_on_the_host(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ladders, "rungs", lambda self, like: ROWS)
    monkeypatch.setattr(Ladders, "head_rungs", lambda self, like: ROWS)
    monkeypatch.setattr(Uploader, "send", lambda self, layout, shape, into: None)
    monkeypatch.setattr(attention, "_batch_ladders", lambda *_: ((1, 8), (1, 8)))
    with no_data():
        cuda = torch.device("cuda", 0)
        form = FusedAttention() if fused else LadderAttention(cuda, SHAPE.head_dim)
        ops = DeviceOperators(cuda, torch.bfloat16, form)
        layout = layout_of(SLICES, padding=3)
        rope = rope_tables([1.0] * (SHAPE.head_dim // 2), 512, device=cuda)
        prepared = ops.prepare(layout, SHAPE, rope)
        width = (SHAPE.heads + 2 * SHAPE.kv_heads) * SHAPE.head_dim
        table = torch.empty(500, 64, dtype=torch.bfloat16, device=cuda)
        x = ops.embed(table, prepared.tokens)
        normed = ops.norm(x, torch.ones(64, device=cuda), 1e-6)
        qkv = ops.linear(normed, ops.pack(torch.empty(width, 64, device=cuda)))
        state = torch.empty(2, 2 * NULL, 16 * SHAPE.head_dim, dtype=torch.bfloat16, device=cuda)
        cache = Cache(state[0], state[1])
        q = ops.rotate_store(qkv, cache, prepared, None)
        y = ops.attention(q, cache, prepared)
        x = ops.linear_add(y, ops.pack(torch.empty(64, 64, device=cuda)), x)
        gated = ops.pack_gated(torch.empty(96, 64, device=cuda), torch.empty(96, 64, device=cuda))
        inner = ops.gated_linear(ops.norm(x, torch.ones(64, device=cuda), 1e-6), gated)
        head = ops.pack_head(table)
        logits = ops.head(ops.norm(x, torch.ones(64, device=cuda), 1e-6), head)
        assert inner.device == logits.device == y.device == cuda
        assert inner.shape == (layout.padded, 96)
        assert (logits.shape, logits.dtype) == ((layout.padded, 500), torch.float32)
        with pytest.raises(RuntimeError, match="device"):
            ops.embed(table, torch.zeros(3, dtype=torch.int64, device="cpu"))
