"""A real Jupyter kernel is recognised and refused; IPython in a terminal and scripts are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest

from torchstone._errors import EnvironmentProblem
from torchstone.train.notebook import ALLOW, notebook_kind, refuse_in_notebook

KIND = "from torchstone.train.notebook import notebook_kind; print('kind', notebook_kind())"
REFUSE = (
    "from torchstone.train.notebook import refuse_in_notebook; refuse_in_notebook('ddp'); print('went on')"
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[object]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", env=dict(os.environ))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def said(kernel: object, code: str) -> str:
    heard: list[str] = []

    def hear(message: dict[str, object]) -> None:
        content = message["content"]
        heard.append(str(content.get("text", "")) + str(content.get("evalue", "")))  # type: ignore[attr-defined]

    kernel.execute_interactive(code, timeout=60, output_hook=hear)  # type: ignore[attr-defined]
    return "".join(heard)


def test_a_real_kernel_is_refused_with_the_reason_and_the_way_out(kernel: object) -> None:
    assert "kind Jupyter" in said(kernel, KIND)
    refusal = said(kernel, REFUSE)
    assert "train.strategy = ddp does not work in a Jupyter notebook" in refusal
    assert "why: it needs several processes" in refusal
    assert "torchstone train --strategy ddp" in refusal and ALLOW in refusal


def test_the_override_lets_a_real_kernel_go_on_with_a_warning(kernel: object) -> None:
    heard = said(kernel, f"import os; os.environ['{ALLOW}'] = 'Yes'\n{REFUSE}")
    assert "went on" in heard
    assert f"because {ALLOW} is set" in heard


def test_ipython_in_a_terminal_is_unaffected() -> None:
    command = [sys.executable, "-m", "IPython", "--quick", "--no-banner", "-c", f"{KIND}; {REFUSE}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "kind None" in done.stdout and "went on" in done.stdout


def test_colab_is_known_by_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    (tmp_path / "google" / "colab").mkdir(parents=True)  # type: ignore[operator]
    (tmp_path / "google" / "colab" / "__init__.py").touch()  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    del sys.modules["google"]  # and whatever the search leaves under this name goes again
    assert notebook_kind() == "Colab"
    with pytest.raises(EnvironmentProblem, match="Colab") as refused:
        refuse_in_notebook("fsdp", {})
    assert refused.value.exit_code == 5


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "Yes", " yes "])
def test_what_allows(value: str, in_notebook: None, caplog: pytest.LogCaptureFixture) -> None:
    refuse_in_notebook("ddp", {ALLOW: value})
    assert ALLOW in caplog.text


@pytest.mark.parametrize("value", ["", "0", "no", "false", "on", "2"])
def test_what_does_not_allow(value: str, in_notebook: None) -> None:
    with pytest.raises(EnvironmentProblem):
        refuse_in_notebook("ddp", {ALLOW: value})


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipykernel.zmqshell import ZMQInteractiveShell

    class Shell(ZMQInteractiveShell):  # as Colab and Databricks derive theirs
        def __init__(self) -> None:
            pass

    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_a_script_is_no_notebook() -> None:
    assert notebook_kind() is None
    refuse_in_notebook("ddp", {})
