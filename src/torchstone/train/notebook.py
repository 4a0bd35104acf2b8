"""Guardrail: a notebook's process does not become one of several training processes.

A kernel holds a CUDA context, threads and the user's objects; processes started beside it would each need
them again, and starting them hangs or fails in ways that nobody can read. So it is refused, with the way
that works. `ALLOW_NOTEBOOK_DDP=1` is for those who know better.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping

from torchstone._errors import EnvironmentProblem

ALLOW = "ALLOW_NOTEBOOK_DDP"

log = logging.getLogger(__name__)


def notebook_kind() -> str | None:
    """`Colab` or `Jupyter`, or None: a script, a plain interpreter, or IPython in a terminal."""
    if _is_importable("google.colab"):
        return "Colab"
    ipython = sys.modules.get("IPython")  # nobody is in its shell who has not imported it
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    kernels = [each.__name__ for each in type(shell).__mro__]
    return "Jupyter" if "ZMQInteractiveShell" in kernels else None


def refuse_in_notebook(strategy: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise where `strategy` would need several processes and this one is a notebook's."""
    kind = notebook_kind()
    if kind is None:
        return
    if environ.get(ALLOW, "").strip().lower() in ("1", "true", "yes"):
        log.warning("train.strategy = %s in a %s notebook, because %s is set", strategy, kind, ALLOW)
        return
    raise EnvironmentProblem(
        f"train.strategy = {strategy} does not work in a {kind} notebook",
        why="it needs several processes, and a notebook's kernel is a single one that cannot become several",
        next="use strategy auto here, or run torchstone train --strategy "
        f"{strategy} in a terminal; {ALLOW}=1 takes the risk",
    )


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
