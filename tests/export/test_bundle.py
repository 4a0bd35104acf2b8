"""A bundle proves itself, names what was changed in it, and a model that is unsound gets none."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export.broken_bundles import FILES, FORGED
from export.conftest import EVERY, plain
from torch import Tensor, nn

from torchstone._errors import ModelError, UsageError
from torchstone.adapt.load import load
from torchstone.data.bpe import train_bpe
from torchstone.export import bundle as room
from torchstone.export.formats import FORMATS, chosen
from torchstone.export.health import Health
from torchstone.export.source import Source
from torchstone.export.standalone import verify as proof
from torchstone.export.verify import verify_bundle

pytestmark = pytest.mark.timeout(400)  # whoever comes first waits for the exporters


def test_every_format_holds_over_the_whole_grid(made_once: Path) -> None:
    found = verify_bundle(made_once)
    assert (found["verdict"], found["problems"]) == ("pass", [])
    runs = [each.name for each in chosen(EVERY) if each.runtime]
    assert {each["name"]: each["status"] for each in found["formats"]} == dict.fromkeys(runs, "pass")
    golden = json.loads((made_once / "golden.json").read_text())
    shapes = {tuple(each["shape"][:2]) for each in golden["cases"]}
    assert {(1, 1), (3, 1), (1, 7), (3, 13), (1, 40)} <= shapes
    assert {"padding", "text0", "text1", "text2"} <= {each["id"] for each in golden["cases"]}


def test_formats_that_trace_again_hold_too(tmp_path: Path) -> None:
    made = room.export(plain(), tmp_path / "out", chosen("pt2-int8,torchscript"))
    assert made.verdict == "pass", made.health.failed
    found = verify_bundle(tmp_path / "out")
    assert {each["name"]: each["status"] for each in found["formats"]} == {
        "pt2-int8": "pass",
        "torchscript": "pass",
    }


def test_axes_of_onnx_are_free_and_named(made_once: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(made_once / "model.onnx"))
    for each in (*session.get_inputs(), *session.get_outputs()):
        assert each.shape[:2] == ["batch", "sequence"]
    assert b"site-packages" not in (made_once / "model.onnx").read_bytes(), "no folder of this machine"
    assert b"site-packages" not in (made_once / "model.pt2").read_bytes()


def test_each_flipped_byte_is_named(bundle: Path) -> None:
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    assert len(names) > 15
    for name in names:
        whole = (bundle / name).read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[at] ^= 4
            (bundle / name).write_bytes(changed)
            problems, _ = proof.damage(bundle)
            assert problems and name in problems[0], (name, at)
        (bundle / name).write_bytes(whole)
    assert proof.damage(bundle)[0] == []


def test_files_that_were_added_removed_cut_or_linked_are_named(bundle: Path) -> None:
    (bundle / "numpy.py").write_text("")
    assert proof.damage(bundle)[0] == ["numpy.py was added"]
    (bundle / "numpy.py").unlink()
    (bundle / "README.md").unlink()
    assert proof.damage(bundle)[0] == ["README.md is missing"]
    (bundle / "README.md").symlink_to("/etc/hostname")
    assert proof.damage(bundle)[0] == ["README.md is a link"]
    size = (bundle / "model.pt2").stat().st_size
    os.truncate(bundle / "model.pt2", size - 1)
    assert f"model.pt2 has {size - 1} bytes instead of {size}" in proof.damage(bundle)[0]


@pytest.mark.parametrize("name", FILES)
def test_a_broken_bundle_is_refused(bundle: Path, name: str) -> None:
    breaking, said = FILES[name]
    breaking(bundle)
    problems, _ = proof.damage(bundle)
    assert problems and said in problems[0]


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_bundle_whose_hashes_agree_is_refused(bundle: Path, name: str) -> None:
    breaking, said = FORGED[name]
    breaking(bundle)
    assert proof.damage(bundle)[0] == [], "the forger was careful"
    found = proof.verify(bundle, only=("onnx",))
    assert found["verdict"] == "fail"
    told = found["problems"] + [each["why"] for each in found["formats"] if each["status"] == "fail"]
    assert said in told[0]


def test_forged_weights_and_programs_of_torch_are_refused(bundle: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(bundle / "model.safetensors")
    tensors["final_norm.weight"] *= 1.01
    save_file(tensors, bundle / "model.safetensors", metadata={"format": "pt"})
    program = torch.export.load(str(bundle / "model.pt2"))
    program.state_dict["model.final_norm.weight"].data *= 1.01
    torch.export.save(program, bundle / "model.pt2")
    room.seal(bundle, json.loads((bundle / "bundle.json").read_text()))
    found = proof.verify(bundle, only=("safetensors", "pt2"))
    assert [each["status"] for each in found["formats"]] == ["fail", "fail"]


def test_it_proves_itself_elsewhere_without_torchstone(bundle: Path, tmp_path: Path) -> None:
    """Another folder, another locale, and neither torch nor torchstone can be imported."""
    away = tmp_path / "weg ü"
    shutil.move(bundle, away)
    program = (
        "import sys, runpy\n"
        "sys.modules['torch'] = sys.modules['torchstone'] = None\n"
        "sys.argv = ['verify.py', '--format', 'onnx', '--json']\n"
        "sys.path.insert(0, '.')\n"
        "runpy.run_path('verify.py', run_name='__main__')\n"
    )
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=away,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["status"] for each in json.loads(done.stdout)["formats"]] == ["pass"]


class Branching(nn.Module):
    """Takes another way for some values, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        if x.sum() > 0:
            x = x * 2
        return self.head(x)


def test_what_cannot_be_traced_is_said_and_the_rest_stays(tmp_path: Path) -> None:
    made = room.export(Source(load(Branching())), tmp_path / "out", chosen("safetensors,pt2"))
    assert made.verdict == "fail"
    by_name = {each.name: each for each in made.formats}
    assert by_name["safetensors"].status == "skip", "weights alone have no code to run"
    assert by_name["pt2"].status == "fail"
    assert "if x.sum() > 0" in (by_name["pt2"].why or "")
    assert not (tmp_path / "out" / "model.pt2").exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing half-written remains"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("an infinity in the weights", "hold NaN or infinities"),
        ("finite weights, outputs that are not", "answers with NaN or infinities"),
        ("dropout that is always on", "two equal passes differ"),
        ("a state that each pass moves", "two equal passes differ"),
    ],
)
def test_a_model_that_is_unsound_leaves_nothing(source: Source, tmp_path: Path, what: str, said: str) -> None:
    norm = source.module.final_norm
    if what.startswith("an infinity"):
        with torch.no_grad():
            norm.weight[0] = float("inf")
    elif what.startswith("finite"):
        norm.register_forward_hook(lambda module, given, out: (out - 1e9).log())
    elif what.startswith("dropout"):
        norm.register_forward_hook(lambda module, given, out: torch.dropout(out, 0.5, True))
    else:
        passes = itertools.count()
        norm.register_forward_hook(lambda module, given, out: out * next(passes))
    with pytest.raises(ModelError, match=said):
        room.export(source, tmp_path / "out", chosen("safetensors"))
    assert [*tmp_path.iterdir()] == []


def test_a_tokenizer_that_comes_back_different_is_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchstone.data.byte_tokenizer import ByteTokenizer

    def save(self: ByteTokenizer, folder: Path) -> None:
        train_bpe(["abc"] * 9, 300).save(folder)

    monkeypatch.setattr(ByteTokenizer, "save", save)
    with pytest.raises(room.Unsound, match="not the same when it is read back"):
        room.export(source, tmp_path / "out", chosen("safetensors"))


def test_a_writer_that_dies_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchstone.export import weights

    def dies(source: Source, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write", dies)
    with pytest.raises(OSError, match="No space left"):
        room.export(source, tmp_path / "out", chosen("safetensors"))
    assert [*tmp_path.iterdir()] == []


def test_weights_that_lie_strangely_come_back(source: Source, tmp_path: Path) -> None:
    """Tied, and not contiguous: what other writers refuse or double."""
    turned = torch.randn(32, 300).t()
    source.module.token_embedding.weight = source.module.head.weight = nn.Parameter(turned)
    made = room.export(source, tmp_path / "out", chosen("safetensors"))
    assert made.manifest["formats"]["safetensors"]["tied"] == {"head.weight": "token_embedding.weight"}
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["token_embedding.weight"], turned)


def test_weights_that_are_no_numbers_leave_nothing(source: Source, tmp_path: Path) -> None:
    with torch.no_grad():
        source.module.blocks[0].mlp.out.weight[0, 0] = float("nan")
    with pytest.raises(room.Unsound, match=r"blocks\.0\.mlp\.out\.weight"):
        room.export(source, tmp_path / "out", chosen("safetensors"))
    assert [*tmp_path.iterdir()] == []


def test_a_tokenizer_that_is_too_large_is_refused(source: Source, tmp_path: Path) -> None:
    source.model = load(
        "zoo:gpt-nano", overrides={"d_model": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 200}
    )
    with pytest.raises(room.Unsound, match="258 entries, the embedding 200 rows"):
        room.export(source, tmp_path / "out", chosen("safetensors"))


def test_a_place_that_is_taken_is_left_alone(bundle: Path, source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is no bundle"):
        room.export(source, tmp_path / "mine", chosen("safetensors"))
    with pytest.raises(UsageError, match="holds a bundle already"):
        room.export(source, bundle, chosen("safetensors"))
    before = json.loads((bundle / "bundle.json").read_text())
    room.export(source, bundle, chosen("safetensors"), replace=True)
    after = json.loads((bundle / "bundle.json").read_text())
    assert [*before["formats"]] != [*after["formats"]] == ["safetensors"]


def test_a_format_whose_outputs_differ_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is believed, not the writer."""
    from torchstone.export import pt2

    real = pt2.save

    def wrong(program: Any, path: Path) -> None:
        program.state_dict["model.final_norm.weight"].data += 0.01
        real(program, path)
        program.state_dict["model.final_norm.weight"].data -= 0.01

    monkeypatch.setattr(pt2, "save", wrong)
    with pytest.raises(ModelError, match="no format could be exported") as told:
        room.export(plain(), tmp_path / "out", chosen("pt2"))
    assert "times what is allowed" in told.value.why
    assert [*tmp_path.iterdir()] == []


def test_the_score_follows_from_the_checks() -> None:
    health = Health()
    assert (health.score, health.verdict) == (None, "error")
    for id, status in (("a", "pass"), ("b", "warn"), ("c", "skip")):
        health.add(id, status, "")  # type: ignore[arg-type]
    assert (health.score, health.verdict) == (75.0, "warn")
    health.add("d", "fail", "")
    assert (health.score, health.verdict) == (50.0, "fail")
    assert health.to_dict()["summary"] == {"total": 4, "pass": 1, "warn": 1, "fail": 1, "skip": 1, "error": 0}


def test_formats_are_chosen_by_name_once() -> None:
    assert [each.name for each in chosen("onnx, pt2,onnx")] == ["pt2", "onnx"]
    assert [each.name for each in chosen("int8")] == ["pt2-int8", "onnx-int8"]
    assert [each.name for each in chosen("safetensors,onnx,int8")] == ["safetensors", "onnx", "onnx-int8"]
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        chosen("onxn")
    for each in FORMATS:
        assert each.summary and each.writer.startswith("torchstone.export.")
