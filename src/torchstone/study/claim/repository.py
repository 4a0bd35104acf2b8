"""What a git repository knows of a commit. It is asked, never changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torchstone.tracking.environment import ask_git


@dataclass(frozen=True)
class Repository:
    """The repository around `folder`."""

    folder: Path

    @property
    def is_there(self) -> bool:
        return ask_git(self.folder, "rev-parse", "--git-dir") is not None

    def holds(self, commit: str) -> bool:
        """Whether the commit exists here."""
        if not re.fullmatch(r"[0-9a-fA-F]{7,64}", commit):
            return False
        return ask_git(self.folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None

    def is_published(self, commit: str) -> bool | None:
        """Whether a branch of a remote holds it, as far as was fetched; None where there is no remote."""
        if not ask_git(self.folder, "remote"):
            return None
        return bool(ask_git(self.folder, "branch", "--remotes", "--contains", commit))
