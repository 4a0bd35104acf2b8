"""Attention mechanisms, one file each. No torch is imported here."""
