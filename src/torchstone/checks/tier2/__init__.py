"""Tier 2: what a model does inside. Each check is one file; importing it registers it."""
