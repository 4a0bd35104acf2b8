"""Makes `zoo` importable: the collection of small models that lies beside these tests."""

from __future__ import annotations

import sys
from pathlib import Path

ZOO = str(Path(__file__).resolve().parents[1])
if ZOO not in sys.path:
    sys.path.insert(0, ZOO)
