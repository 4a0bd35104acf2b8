"""The publish gate: a claim is refused by name, or judged, and what holds is signed. Start with `gate.py`."""
