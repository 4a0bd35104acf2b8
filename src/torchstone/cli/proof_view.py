"""What `torchstone train --replay` and `--certify` print."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone.cli.session import console, print_json

if TYPE_CHECKING:
    from torchstone.train.run import TrainJob


def show_replay(path: Path, *, trust: bool | None, as_json: bool) -> int:
    """Exit 0 if the step breaks again as it was recorded, 1 if it does not."""
    from torchstone.train.incident import replay

    with redirect_stdout(sys.stderr):
        found = replay(path, trust=trust)
    if as_json:
        print_json(found.to_dict())
        return 0 if found.reproduced else 1
    out = console()
    out.print(f"recorded    {found.recorded}", markup=False)
    out.print(f"losses      {', '.join(f'{each:.6g}' for each in found.losses)}")
    if found.module:
        out.print(f"again       {found.module} breaks the values, {found.direction}", markup=False)
    elif found.parameter:
        out.print(f"again       the gradient of {found.parameter} is not finite", markup=False)
    out.print("reproduced" if found.reproduced else "not reproduced: the step is finite on this machine")
    return 0 if found.reproduced else 1


def show_certificate(job: TrainJob, steps: int, *, as_json: bool) -> int:
    """Exit 0 if both runs are equal in every bit, 1 with the first operation that differs."""
    from torchstone.train.certify import certify

    with redirect_stdout(sys.stderr):
        found = certify(job, steps)
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(found.sentence, markup=False)
    return 0 if found.equal else 1
