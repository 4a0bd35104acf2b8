"""Has the data changed? Profiles, distances, and verdicts with a known rate of false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily

__all__ = ["DriftVerdict", "Profile", "compare", "profile_images", "profile_table", "profile_texts"]

if TYPE_CHECKING:
    from torchstone.drift.profile import Profile as Profile
    from torchstone.drift.tables import profile_table as profile_table
    from torchstone.drift.texts import profile_texts as profile_texts
    from torchstone.drift.verdict import DriftVerdict as DriftVerdict
    from torchstone.drift.verdict import compare as compare
    from torchstone.drift.vision import profile_images as profile_images

__getattr__, __dir__ = lazily(
    __name__,
    {
        "DriftVerdict": "torchstone.drift.verdict",
        "Profile": "torchstone.drift.profile",
        "compare": "torchstone.drift.verdict",
        "profile_images": "torchstone.drift.vision",
        "profile_table": "torchstone.drift.tables",
        "profile_texts": "torchstone.drift.texts",
    },
)
