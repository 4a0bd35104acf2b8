"""MLPs of a block, one file each. No torch is imported here."""
