"""Handwritten digits that scikit-learn carries: real images without a download.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998 (the test part).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from torchstone._optional import require

BRIGHTEST = 16


def digit_images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values 0 to 1, (1797, 8, 8), and their classes 0 to 9, (1797,)."""
    digits = require("sklearn.datasets", "vision").load_digits()
    return (digits.images / BRIGHTEST).astype(np.float32), digits.target.astype(np.int64)
