"""Headrace: an inference serving engine for language models."""
