"""Both forms of attention: right for every shape, and the probe tells which to trust."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.kernels.device import attention
from headrace.kernels.device.attention import (
    Attention,
    FusedAttention,
    LadderAttention,
    choose_attention,
    probe,
)
from tests.support.devices import on_devices

DTYPES = (torch.float32, torch.bfloat16)


def forms(device: str, dim: int) -> list[Attention]:
    return [FusedAttention(), LadderAttention(torch.device(device), dim)]


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.cpu().double() for x in (q, k, v))
    scores = q @ k.transpose(-1, -2)
    hidden = torch.arange(k.shape[2]) >= seen.cpu()[:, None, :, None]
    result: torch.Tensor = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
    return result


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize(
    ("many", "heads", "shared", "length", "width"),
    [(5, 2, False, 3, 256), (1, 3, False, 1, 768), (2, 4, True, 37, 512), (3, 1, True, 130, 256)],
)
def test_attention_is_right(
    device: str, dtype: torch.dtype, dim: int,
    many: int, heads: int, shared: bool, length: int, width: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(length)
    q = torch.randn(many, heads, length, dim, generator=generator).to(device, dtype) / 4
    size = (many, 1 if shared else heads, width, dim)
    k, v = (torch.randn(size, generator=generator).to(device, dtype) for _ in range(2))
    rows = length if shared else 1
    seen = torch.randint(1, width + 1, (many, rows), generator=generator).to(device)
    for form in forms(device, dim):
        found = form(q, k, v, form.mask(seen, width, dtype))
        assert found.dtype is dtype
        error = (found.cpu().double() - exact(q, k, v, seen)).abs().max()
        assert error < 16 * torch.finfo(dtype).eps, form.name


@on_devices
def test_hidden_keys_change_nothing(device: str) -> None:
    q, k, v = (torch.randn(2, 2, n, 16, device=device) for n in (3, 512, 512))
    seen = torch.tensor([[9], [300]], device=device)
    for form in forms(device, 16):
        mask = form.mask(seen, 512, torch.float32)
        expected = form(q, k, v, mask)
        other_k, other_v = k.clone(), v.clone()
        other_k[0, :, 9:], other_v[0, :, 9:] = 1e30, -1e30
        other_k[1, :, 300:], other_v[1, :, 300:] = -3.0, 7.0
        assert torch.equal(form(q, other_k, other_v, mask), expected), form.name


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 64])
def test_the_form_that_is_chosen_passes_the_probe(
    device: str, dtype: torch.dtype, dim: int
) -> None:
    where = torch.device(device)
    chosen, why = choose_attention(where, dim, dtype)
    assert why
    assert probe(chosen, where, dim, dtype) == ""


class Doctored(FusedAttention):
    """One bit off where ``when`` says so, on top of an attention that is exact by construction."""

    def __init__(self, when: Any) -> None:
        self._inner = LadderAttention(torch.device("cpu"), 16)
        self._when = when

    def mask(self, seen: torch.Tensor, width: int, dtype: torch.dtype) -> Any:
        return self._inner.mask(seen, width, dtype)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any
    ) -> torch.Tensor:
        y = self._inner(q, k, v, mask)
        return y * (1 + torch.finfo(y.dtype).eps) if self._when(q, k) else y


@pytest.mark.parametrize(
    ("when", "what"),
    [
        (lambda q, k: False, ""),
        (lambda q, k: k.shape[1] == 1 and q.shape[2] == 64, "chunk"),
        (lambda q, k: k.shape[1] > 1 and k.shape[2] == 2048, "batch"),
        (lambda q, k: k.shape[1] > 1 and len(q) > 6, "batch"),
    ],
)
def test_the_probe_finds_what_changes_a_row(when: Any, what: str) -> None:
    found = probe(Doctored(when), torch.device("cpu"), 16, torch.float32)
    assert what in found
    assert bool(found) == bool(what)


def test_a_form_that_fails_the_probe_or_cannot_run_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(attention, "probe", lambda *_: "changes with the moon")
    chosen, why = choose_attention(cpu, 16, torch.float32)
    assert isinstance(chosen, LadderAttention)
    assert "changes with the moon" in why

    def broken(*_: Any) -> str:
        raise RuntimeError("No available kernel.\nAborting execution.")

    monkeypatch.setattr(attention, "probe", broken)
    chosen, why = choose_attention(cpu, 16, torch.float32)
    assert isinstance(chosen, LadderAttention)
    assert "fails (No available kernel.)" in why
    monkeypatch.setattr(attention, "probe", lambda *_: "")
    assert isinstance(choose_attention(cpu, 16, torch.float32)[0], FusedAttention)


def test_many_tiles_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    form = LadderAttention(torch.device("cpu"), 16)
    q, k, v = (torch.randn(3, b, n, 16) for b, n in ((4, 50), (1, 256), (1, 256)))
    mask = form.mask(torch.arange(1, 51)[None], 256, torch.float32)
    expected = form(q, k, v, mask)
    monkeypatch.setattr(attention, "SCORE_ELEMENTS", 5 * 16 * 256)
    assert torch.equal(form(q, k, v, mask), expected)
