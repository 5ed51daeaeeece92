"""Traces, arrival processes, targets, goodput metrics, the load generator, plots."""
