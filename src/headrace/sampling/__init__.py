"""Logits to tokens, tokens to text."""
