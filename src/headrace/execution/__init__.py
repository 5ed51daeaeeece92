"""HOW a step runs: executors, batch layout, the tensors behind the block ids."""
