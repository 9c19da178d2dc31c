"""Ablations and searches over the pipeline's recipes."""
