"""Logits to tokens and tokens to text: penalties, truncation, draws, log-probabilities, stops.

``docs/sampling.md`` defines every parameter in symbols and the order they apply in.
"""
