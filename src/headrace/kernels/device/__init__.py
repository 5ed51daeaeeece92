"""Operators for a device with its own memory: torch's, on the paged cache. docs/gpu.md."""
