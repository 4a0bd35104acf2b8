"""Write the exact pins anew: `make constraints`.

dev.txt       everything that development and tests install
training.txt  what a training machine installs: core, quickstart, Hugging Face
notebook.txt  what a notebook runtime adds to its own torch, numpy and pandas, which must never be moved

Each file is what pip resolves for its extras together with torch; dev.txt is resolved first and constrains
the others, so that one package has one version everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
FILES = {"dev.txt": "dev", "training.txt": "quickstart,hf", "notebook.txt": "quickstart"}
BROUGHT_BY_THE_NOTEBOOK = {"torch", "numpy", "pandas"}


def resolve(extras: str, constraint: Path | None) -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", TORCH, f"{HERE.parent}[{extras}]"]
    if constraint:
        command += ["--constraint", str(constraint)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found = {each["metadata"]["name"]: each["metadata"]["version"] for each in report["install"]}
    # The local part of a version (2.13.0+cpu) names a build, not a release.
    return {
        name.lower().replace("_", "-"): version.split("+")[0]
        for name, version in found.items()
        if not name.lower().startswith(("torchstone", "nvidia-", "triton", "cuda-"))
    }


def main() -> None:
    for file, extras in FILES.items():
        pins = resolve(extras, None if file == "dev.txt" else HERE / "dev.txt")
        if file == "notebook.txt":
            pins = {name: version for name, version in pins.items() if name not in BROUGHT_BY_THE_NOTEBOOK}
        lines = [f"# Exact pins for [{extras}]; written by constraints/refresh.py (make constraints)."]
        lines += [f"{name}=={version}" for name, version in sorted(pins.items())]
        (HERE / file).write_text("\n".join(lines) + "\n")
        print(f"{file}: {len(pins)} pins", file=sys.stderr)


if __name__ == "__main__":
    main()
