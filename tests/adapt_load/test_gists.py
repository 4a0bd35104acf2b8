"""A gist is fetched as data, whole or not at all, from nowhere but where it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo.gist_api import ID, REVISION, Api, gist_api

from torchstone._errors import ModelError, Offline, TorchstoneError, TryAgain, UntrustedCode, UsageError
from torchstone.adapt.gist import FILE_LIMIT_BYTES, Gist, fetch_gist
from torchstone.adapt.load import load
from torchstone.adapt.target import parse_target

MODEL = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, width):
        super().__init__(width, 1)
"""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with gist_api() as api:
        monkeypatch.setenv("TORCHSTONE_GIST_API", api.address)
        monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "cache"))
        api.put("model.py", MODEL)
        api.put("config.json", '{"width": 3}')
        yield api


def fetch(text: str = f"gist:{ID}") -> Gist:
    return fetch_gist(parse_target(text))


def test_a_gist_comes_whole_with_its_hashes(api: Api):
    api.put("notes.md", "not for us")
    gist = fetch()
    assert (gist.folder / "model.py").read_text() == MODEL
    assert sorted(each.name for each in gist.folder.iterdir()) == ["config.json", "gist.json", "model.py"]
    assert gist.revision == REVISION
    assert gist.owner == "someone"
    assert len(gist.sha256["model.py"]) == 64
    assert any("notes.md" in note for note in gist.notes)
    (path, headers), *more = api.asked
    assert path == f"/gists/{ID}"
    assert headers["Accept"] == "application/vnd.github+json"
    assert not more


def test_a_pinned_revision_needs_the_network_once(api: Api):
    first = fetch(f"gist:{ID}@{REVISION}")
    assert api.asked[0][0].endswith(f"/{ID}/{REVISION}")
    assert fetch(f"gist:{ID}@{REVISION}") == first
    assert len(api.asked) == 1


def test_a_cached_file_that_was_changed_is_fetched_again(api: Api):
    gist = fetch(f"gist:{ID}@{REVISION}")
    (gist.folder / "model.py").write_text("import os\n")
    again = fetch(f"gist:{ID}@{REVISION}")
    assert (again.folder / "model.py").read_text() == MODEL
    assert len(api.asked) == 2


def test_an_address_with_a_gist_id_loads_the_gist(api: Api):
    with pytest.raises(UntrustedCode) as refused:
        load(f"https://colab.example/x.ipynb#gist_id={ID}&name=Net")
    assert refused.value.exit_code == 3
    assert "--trust" in refused.value.next
    assert not api.asked
    model = load(f"https://colab.example/x.ipynb#gist_id={ID}&name=Net", trust=True)
    assert model.module.in_features == 3
    assert any("sha256" in note for note in model.notes)


def test_the_token_goes_to_github_alone(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_TOKEN", "token-5d20")
    fetch()
    assert not any("token-5d20" in str(headers) for _, headers in api.asked)


def test_a_truncated_file_is_read_from_the_same_host(api: Api):
    raw = f"/raw/{ID}/model.py"
    api.put("model.py", MODEL[:10], truncated=True, raw_url=f"{api.address}{raw}")
    api.raw[raw] = MODEL.encode()
    assert (fetch().folder / "model.py").read_text() == MODEL


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/model.py", "http://localhost/model.py", "file:///etc/passwd", "http://127.0.0.1@evil.example/",
     "", None],
)  # fmt: skip
def test_a_truncated_file_on_another_host_is_refused(api: Api, address: str | None):
    api.put("model.py", MODEL[:10], truncated=True, raw_url=address)
    with pytest.raises(ModelError, match="another host"):
        fetch()


@pytest.mark.parametrize("place", ["content", "size", "raw"])
def test_a_file_beyond_the_limit_is_refused(api: Api, place: str):
    large = "#" * (FILE_LIMIT_BYTES + 1)
    if place == "content":
        api.put("model.py", large, size=10)
    elif place == "size":
        api.put("model.py", MODEL, size=FILE_LIMIT_BYTES + 1)
    else:
        api.put("model.py", "", truncated=True, size=10, raw_url=f"{api.address}/raw")
        api.raw["/raw"] = large.encode()
    with pytest.raises(ModelError, match="larger"):
        fetch()


def test_redirects_are_not_followed(api: Api):
    api.status, api.headers = 302, {"Location": f"{api.address}/elsewhere"}
    with pytest.raises(ModelError, match="leads elsewhere"):
        fetch()
    assert [path for path, _ in api.asked] == [f"/gists/{ID}"]


def test_no_such_gist(api: Api):
    with pytest.raises(UsageError, match="no public gist"):
        fetch("gist:deadbeefdeadbeef")


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000000"}, "until"),
        (429, {"Retry-After": "30"}, "for 30 seconds"),
        (500, {}, "500"),
    ],
)
def test_a_passing_refusal_says_when_to_come_back(api: Api, status: int, headers: dict[str, str], says: str):
    api.status, api.headers = status, headers
    with pytest.raises(TryAgain, match=says) as refused:
        fetch()
    assert refused.value.exit_code == 75


def test_offline_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCHSTONE_GIST_API", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    with pytest.raises(Offline) as refused:
        fetch()
    assert refused.value.exit_code == 75
    assert "\n" not in refused.value.what


def test_offline_names_the_copy_that_is_kept(api: Api, monkeypatch: pytest.MonkeyPatch):
    fetch()
    monkeypatch.setenv("TORCHSTONE_GIST_API", "http://127.0.0.1:9")
    with pytest.raises(Offline) as refused:
        fetch()
    assert f"gist:{ID}@{REVISION}" in refused.value.next
    assert fetch(f"gist:{ID}@{REVISION}").revision == REVISION


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"files": []}'])
def test_an_answer_in_another_shape_is_refused(api: Api, body: bytes):
    api.body = body
    with pytest.raises(TorchstoneError):
        fetch()


@pytest.mark.parametrize("name", ["model.py", "config.json"])
def test_an_empty_file_is_refused(api: Api, name: str):
    api.put(name, " \n")
    with pytest.raises(ModelError, match="empty"):
        fetch()


def test_a_gist_without_a_model_says_what_it_holds(api: Api):
    del api.files["model.py"]
    with pytest.raises(ModelError, match=r"no model\.py") as refused:
        fetch()
    assert "config.json" in refused.value.why
