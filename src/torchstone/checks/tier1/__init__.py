"""Tier 1, the touchstone: what every transformer must satisfy before it is worth training.

Every file here registers its checks with `CHECKS.add`; nothing else has to know it.
"""
