"""The proof of a study: every step does what it claims, on full sizes without memory and on small twins."""
