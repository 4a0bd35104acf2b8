"""Pruning while training: what a weight is worth, which go, when, and how they stay away.

methods.py   scores, by name            ramp.py     how sparsity grows over a run
selection.py scores to masks            pruner.py   what a training loop calls
"""
