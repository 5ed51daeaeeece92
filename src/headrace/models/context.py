"""How many tokens of context a model can be given honestly."""

from __future__ import annotations

from headrace.models.rope_config import RopeConfig


def usable_context(context: int, window: int | None, rope: RopeConfig) -> tuple[int, str]:
    """Tokens, and the reason where they differ from the model's own ``context``.

    yarn reaches ``factor`` times its original length, which many configurations leave unsaid.
    A sliding window cuts nothing off while the context is no longer than the window; beyond it we
    would compute another model, so the context ends there.
    """
    note = ""
    if rope.kind == "yarn":
        reach = int(rope.original_max_position * rope.factor)
        if reach > context:
            note = f"{context} extended to {reach} by yarn with factor {rope.factor:g}"
            context = reach
    if window is not None and window < context:
        note = (
            f"{context} limited to {window}: the model's sliding-window attention beyond its"
            " window is not supported"
        )
        context = window
    return context, note
