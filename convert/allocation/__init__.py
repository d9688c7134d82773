"""Bits where they count: what rounding a part of a model costs, measured, and the best use of a budget of bytes."""
