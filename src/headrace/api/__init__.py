"""HTTP: OpenAI-compatible routes, auth, limits, streaming, metrics. No torch."""
