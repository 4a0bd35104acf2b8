"""Tier 4: what leaves the house is still the model."""
