"""Architectures, weight files, tokenizers, chat templates, where models come from."""
