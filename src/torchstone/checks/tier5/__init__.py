"""Tier 5: the model on data. Each check is one file; importing it registers it."""
