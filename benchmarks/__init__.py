"""Programs that measure Headrace: ``python -m benchmarks.NAME`` in the repository's root."""
