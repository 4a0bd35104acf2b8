"""A bundle goes to the Hugging Face hub: first a plan that touches no network, then one commit.

    plan = plan_push(Path("bundles/first"), "me/first")      # names and bytes
    plan.push(private=True)                                  # the address of the commit

Only what the manifest vouches for goes. A repository that holds something else than a bundle is left alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import (
    DataError,
    EnvironmentProblem,
    Offline,
    TorchstoneError,
    UsageError,
    in_one_line,
)
from torchstone._optional import require
from torchstone.export.standalone.runtimes import MANIFEST
from torchstone.export.standalone.verify import damage

KEPT = frozenset({".gitattributes"})
"""What the hub itself puts into a repository."""


@dataclass(frozen=True)
class Push:
    """What would go where."""

    folder: Path
    repo: str
    files: dict[str, int]
    """Bytes by name."""

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.push/1` object, before anything went."""
        return {
            "schema": "torchstone.push/1",
            "repo": self.repo,
            "path": str(self.folder),
            "files": self.files,
            "bytes": sum(self.files.values()),
            "commit": None,
        }

    def push(self, *, private: bool = False, token: str | None = None, endpoint: str | None = None) -> str:
        """Make the repository if needed, send everything in one commit, and look at what lies there then.

        `token` and `endpoint` default to what huggingface_hub is configured to use.

        Errors: UsageError where the repository holds something else; EnvironmentProblem where the hub
        refuses; Offline; DataError where it holds other files afterwards.
        """
        hub, errors = require("huggingface_hub", "hf"), require("huggingface_hub.errors", "hf")
        api = hub.HfApi(endpoint=endpoint or os.environ.get("HF_ENDPOINT"), token=token)
        try:
            api.create_repo(self.repo, private=private, exist_ok=True)
            there = set(api.list_repo_files(self.repo)) - KEPT
            if there and MANIFEST not in there:
                raise UsageError(
                    f"{self.repo} holds something else: {min(there)}", next="push to a repository of its own"
                )
            made = api.create_commit(
                self.repo, self._operations(hub, there), commit_message="torchstone bundle"
            )
            found = {each.path: each.size for each in api.list_repo_tree(self.repo, recursive=True)}
        except TorchstoneError:
            raise
        except (errors.HTTPError, OSError) as trouble:
            raise _told(self.repo, trouble) from trouble
        wrong = [name for name, size in self.files.items() if found.get(name) != size]
        if wrong:
            raise DataError(f"{wrong[0]} does not lie in {self.repo} as it was sent", next="push again")
        return str(made.commit_url)

    def _operations(self, hub: Any, there: set[str]) -> list[Any]:
        gone = [hub.CommitOperationDelete(name) for name in sorted(there - set(self.files))]
        return gone + [hub.CommitOperationAdd(name, str(self.folder / name)) for name in self.files]


def plan_push(folder: Path, repo: str) -> Push:
    """What a push would send. UsageError for a name that no hub allows, DataError for a damaged bundle."""
    utils, errors = require("huggingface_hub.utils", "hf"), require("huggingface_hub.errors", "hf")
    try:
        utils.validate_repo_id(repo)
    except errors.HFValidationError as trouble:
        raise UsageError(f"{repo!r} is no name of a repository", why=in_one_line(trouble)) from None
    problems, manifest = damage(folder)
    if problems:
        raise DataError(f"the bundle is not pushed: {problems[0]}", next=f"torchstone verify {folder}")
    names = sorted([*manifest["files"], MANIFEST])
    return Push(folder, repo, {name: (folder / name).stat().st_size for name in names})


def _told(repo: str, trouble: Exception) -> TorchstoneError:
    response = getattr(trouble, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return EnvironmentProblem(
            f"the hub does not let you write to {repo}",
            why=in_one_line(trouble),
            next="hf auth login, or set HF_TOKEN to a token that may write",
        )
    if status is not None and 400 <= status < 500:
        return EnvironmentProblem(f"the hub refuses {repo}", why=in_one_line(trouble))
    return Offline(f"{repo} was not pushed", why=in_one_line(trouble), next="the same command again, later")
