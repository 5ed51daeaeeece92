"""WHAT runs next: queue order, admission, batching, preemption. Standard library only."""
