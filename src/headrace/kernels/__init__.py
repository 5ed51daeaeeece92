"""Operators on tensors: the reference in torch, faster ones behind the same seam."""
