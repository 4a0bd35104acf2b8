"""Tier 3: the model is trained by the one engine, and what comes of it is compared."""
