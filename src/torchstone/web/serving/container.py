"""What a bundle gets to be served from a container: this package, what it needs, a Dockerfile.

    beside(manifest, pins)                     # file name -> text, for `export(..., beside=beside)`

The image holds one runtime, the first of onnx, pt2 and safetensors that the bundle has, and no torchstone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torchstone.web.serving.config import PREFERRED, TOKEN_VARIABLE

PACKAGES = ("fastapi", "uvicorn", "prometheus-client")
RUNTIMES = {"onnx": ("onnxruntime",), "torch": ("torch", "safetensors", "transformers")}
PORT = 8080


def beside(manifest: Mapping[str, Any], pins: Mapping[str, str]) -> dict[str, str]:
    """The files of a bundle that holds these formats and needs these versions; nothing where none can run."""
    formats = manifest["formats"]
    served = next((each for each in PREFERRED if each in formats), None)
    if served is None:
        return {}
    others = {
        each for kind, names in RUNTIMES.items() if kind != formats[served]["runtime"] for each in names
    }
    needed = {name: version for name, version in pins.items() if name not in others}
    files = {f"serving/{path.name}": _moved(path) for path in _programs()}
    files["serving/requirements.txt"] = _requirements(needed)
    files["Dockerfile"] = dockerfile(served, with_torch="torch" in needed)
    files[".dockerignore"] = "**/__pycache__\n**/.*\n!Dockerfile\n"
    return files


def dockerfile(format: str, *, with_torch: bool) -> str:
    """Slim, without root, watched through the endpoint that answers; a token comes with `docker run -e`."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    index = "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" if with_torch else ""
    extra = " --extra-index-url $TORCH_INDEX" if with_torch else ""
    probe = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/health', timeout=4)"
    return f"""\
# docker build -t model . && docker run -p {PORT}:{PORT} -e {TOKEN_VARIABLE}=SECRET model
FROM python:{python}-slim
{index}WORKDIR /bundle
COPY serving/requirements.txt serving/requirements.txt
RUN pip install --no-cache-dir{extra} -r serving/requirements.txt
COPY . .
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
EXPOSE {PORT}
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "{probe}"]
CMD ["python", "-m", "serving", "--host", "0.0.0.0", "--port", "{PORT}", "--format", "{format}"]
"""


def _programs() -> list[Path]:
    here = Path(__file__)
    return sorted(path for path in here.parent.glob("*.py") if path != here)


def _moved(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text.replace("torchstone.export.standalone.", "").replace("torchstone.web.serving", "serving")


def _requirements(needed: Mapping[str, str]) -> str:
    lines = ["# What `python -m serving` imports; the model's packages are as the proof ran with them."]
    lines += [f"{name}=={version}" for name, version in needed.items()]
    return "\n".join([*lines, *map(_pin, PACKAGES)]) + "\n"


def _pin(name: str) -> str:
    """The version that is installed; where none is, any."""
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name
