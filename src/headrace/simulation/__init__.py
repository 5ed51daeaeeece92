"""Virtual clock and simulated executor: the same engine without a model."""
