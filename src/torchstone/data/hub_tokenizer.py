"""A known or named tokenizer from the hub's cache or the hub: files alone, never code that comes with them.

    fetch_tokenizer("openai-community/gpt2")

What lies in the local cache is used without asking the network. Otherwise the hub is asked a few times, and
an answer that does not come is one `Offline` error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import DataError, Offline
from torchstone._optional import require
from torchstone.data.tokenizer_formats import open_tokenizer

if TYPE_CHECKING:
    from torchstone.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
)
ATTEMPTS = 3
PAUSE_S = 1.0
TIMEOUT_S = 10.0


def fetch_tokenizer(
    name: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
    pause_s: float = PAUSE_S,
) -> Tokenizer:
    """`endpoint` and `cache_dir`: None means what huggingface_hub is configured to use."""
    hub: Any = require("huggingface_hub", "hf")
    wanted = {"repo_id": name, "revision": revision, "allow_patterns": list(FILES), "cache_dir": cache_dir}
    try:
        return open_tokenizer(Path(hub.snapshot_download(**wanted, local_files_only=True)))
    except (hub.errors.LocalEntryNotFoundError, DataError):
        pass  # not in the cache, or only a part of it
    folder = _insist(
        name,
        lambda: hub.snapshot_download(**wanted, endpoint=endpoint, etag_timeout=TIMEOUT_S, max_workers=2),
        hub,
        pause_s,
    )
    return open_tokenizer(Path(folder))


def _insist(name: str, download: Callable[[], str], hub: Any, pause_s: float) -> str:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return download()
        except hub.errors.GatedRepoError:
            raise DataError(
                f"the hub gives {name} only to those who accepted its licence",
                next=f"accept it on the model's page, then: hf auth login; or give a local copy of {name}",
            ) from None
        except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError):
            raise DataError(f"the hub has no {name}", next="check the name, or give a file") from None
        except (hub.errors.LocalEntryNotFoundError, hub.errors.HfHubHTTPError, OSError) as trouble:
            if attempt == ATTEMPTS or hub.constants.HF_HUB_OFFLINE:
                raise Offline(
                    f"the tokenizer {name} is neither in the local cache nor to be had from the hub",
                    why=(str(trouble) or type(trouble).__name__).splitlines()[0],
                    next="connect, or --set data.tokenizer=auto, or give a local tokenizer file",
                ) from None
            log.info("the hub did not answer (%s); attempt %d of %d", trouble, attempt + 1, ATTEMPTS)
            time.sleep(pause_s * 2 ** (attempt - 1))
    raise AssertionError("unreachable")
