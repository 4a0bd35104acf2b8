"""The questions that every comparison is asked, one small function each; `confounders.py` asks them all."""
