"""A bundle over HTTP: the same answers as without, alone or in company, whole or in parts; limits by name."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from web.conftest import Client, Held, serving, until

from torchstone.export.standalone.decoding import Sampling
from torchstone.web.serving.config import ServeConfig

pytestmark = pytest.mark.timeout(400)  # whoever comes first waits for the exporters
COMPLETE, PREDICT = "/v1/completions", "/v1/predict"


def alone(held: Held, prompt: str | list[int], **sampling: Any) -> dict[str, Any]:
    """What the bundle's own inference says."""
    row = held.encode(prompt) if isinstance(prompt, str) else prompt
    return held.generate([row], Sampling(**sampling))[0]


def test_answers_are_those_of_the_bundle(held: Held) -> None:
    wanted = alone(held, "Once", max_new_tokens=6, temperature=0)
    with serving(held) as it:
        asked = {"prompt": "Once", "max_tokens": 6, "temperature": 0}
        answer = it.client("POST", COMPLETE, asked)
        assert answer.status == 200
        (choice,) = answer.json["choices"]
        assert (choice["text"], choice["token_ids"]) == (wanted["text"], wanted["ids"])
        assert choice["finish_reason"] == "length"
        assert answer.json["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
        several = it.client("POST", COMPLETE, asked | {"prompt": [held.encode("Once"), [5, 6]]}).json
        assert [each["token_ids"] for each in several["choices"]] == [
            wanted["ids"],
            alone(held, [5, 6], max_new_tokens=6, temperature=0)["ids"],
        ]
        found = it.client("POST", PREDICT, {"inputs": "Once", "max_new_tokens": 6, "temperature": 0}).json
        assert (found["schema"], found["results"]) == ("torchstone.predict/1", [wanted])


@pytest.mark.parametrize("stop", [[], [" "], ["ab", "e"]])
def test_a_stream_adds_up_to_the_whole(held: Held, stop: list[str]) -> None:
    """At a temperature that makes half characters and beginnings of stops, which are held back."""
    asked = {"prompt": ["naïve 你", "b"], "max_tokens": 25, "temperature": 3.0, "seed": 3, "stop": stop}
    with serving(held) as it:
        whole = it.client("POST", COMPLETE, asked).json["choices"]
        answer = it.client("POST", COMPLETE, asked | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.events[-1] == "[DONE]"
    chunks = [each["choices"][0] for each in answer.events[:-1]]
    for index in (0, 1):
        mine = [each for each in chunks if each["index"] == index]
        assert "".join(each["text"] for each in mine) == whole[index]["text"]
        assert [each["finish_reason"] for each in mine if each["finish_reason"]] == [
            whole[index]["finish_reason"]
        ]
    assert len(chunks) > 4


def test_company_changes_no_answer(held: Held) -> None:
    """Eight texts in the same passes, of other lengths, ends and seeds, are what each is alone."""
    asked = [
        {"prompt": "ab" * (1 + place), "max_tokens": 3 + place, "temperature": place % 3, "seed": place}
        for place in range(8)
    ]
    wanted = [
        alone(held, each["prompt"], max_new_tokens=each["max_tokens"], temperature=each["temperature"],
              seed=each["seed"])["ids"]
        for each in asked
    ]  # fmt: skip
    with serving(held) as it:
        held.sizes.clear()
        held.go.clear()
        with it.client.together([(COMPLETE, each) for each in asked]) as answers:
            until(lambda: it.server.gate.under_way == 8)
            held.go.set()
    assert [each.json["choices"][0]["token_ids"] for each in answers] == wanted
    assert max(held.sizes) == 8, "they went together"


def test_limits_are_refused_by_name(held: Held) -> None:
    limits = {"max_body_bytes": 2000, "max_inputs": 2, "max_new_tokens": 20, "max_length": 20}
    with serving(held, **limits) as it:
        for asked, status, said in (
            ({"prompt": "a" * 3000}, 413, "larger than 2000 bytes"),
            ({"prompt": "a" * 21}, 422, "21 tokens, the limit is 20"),
            ({"prompt": ["a"] * 3}, 422, "3 inputs are sent, the limit is 2"),
            ({"prompt": "a", "max_tokens": 21}, 422, "21 tokens are asked for, the limit is 20"),
            ({"prompt": [5, 300]}, 422, "300 is no token id"),
            ({"prompt": "a", "n": 2}, 422, "n: "),
            ({"prompt": "a", "logit_bais": {}}, 422, "logit_bais"),
            ({"prompt": "a", "model": "gpt-4"}, 404, "this server has the model"),
            ({"prompt": "\ud800"}, 422, "half of a character"),
            (b"{", 422, "JSON"),
        ):
            answer = it.client("POST", COMPLETE, asked)
            assert (answer.status, said in answer.json["error"]["message"]) == (status, True), answer.body
        connection = it.client.connect()  # the length is not declared: counted as it comes
        connection.request("POST", PREDICT, iter([b"a" * 900] * 3), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 413
        connection.close()
        assert it.client("GET", "/nowhere").json["error"]["message"] == "Not Found"
        assert it.client("GET", PREDICT).status == 405
        assert it.client("POST", COMPLETE, {"prompt": "a" * 20, "max_tokens": 9}).status == 200


def test_more_requests_than_places_are_turned_away_and_probes_are_not(held: Held) -> None:
    with serving(held, max_concurrent=2) as it:
        held.go.clear()
        asked = (COMPLETE, {"prompt": "a", "max_tokens": 1})
        with it.client.together([asked, asked]) as two:
            until(lambda: it.server.gate.under_way == 2)
            third = it.client("POST", *asked)
            assert (third.status, third.code, third.headers["retry-after"]) == (429, "busy", "1")
            assert [it.client("GET", path).status for path in ("/health", "/ready", "/metrics")] == [200] * 3
            held.go.set()
        assert [each.status for each in two] == [200, 200]
        counted = it.client("GET", "/metrics").body.decode()
    assert 'torchstone_requests_total{route="/v1/completions",status="429"} 1.0' in counted
    assert 'torchstone_requests_total{route="/v1/completions",status="200"} 2.0' in counted
    assert "torchstone_tokens_made_total 2.0" in counted


def test_what_takes_too_long_is_given_up(held: Held) -> None:
    """An answer, a stream that was begun, and a body that does not come."""
    with serving(held, timeout_s=0.4) as it:
        held.go.clear()
        answer = it.client("POST", COMPLETE, {"prompt": "a"})
        assert (answer.status, answer.code) == (503, "timeout")
        stream = it.client("POST", COMPLETE, {"prompt": "a", "stream": True})
        assert (stream.status, stream.events[-1]["error"]["code"]) == (200, "timeout")
        with socket.create_connection((it.client.host, it.client.port)) as slow:
            slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            assert b"408" in slow.recv(100)
        held.go.set()
        until(lambda: it.server.gate.under_way == 0)
        assert it.client("POST", COMPLETE, {"prompt": "a", "max_tokens": 1}).status == 200


def test_a_reader_who_leaves_frees_the_place(held: Held) -> None:
    with serving(held, max_concurrent=1) as it:
        with it.client.begun("POST", COMPLETE, {"prompt": "a", "max_tokens": 1000, "stream": True}) as answer:
            assert answer.readline().startswith(b"data: ")
        until(lambda: it.server.gate.under_way == 0)
        until(lambda: not held_depth(it))
        assert len(held.sizes) < 900, "nothing is made for nobody"
        assert it.client("POST", COMPLETE, {"prompt": "a", "max_tokens": 1}).status == 200


def held_depth(it: Any) -> float:
    text = it.client("GET", "/metrics").body.decode()
    return float(
        next(each for each in text.splitlines() if each.startswith("torchstone_inputs_waiting")).split()[1]
    )


def test_a_model_that_breaks_is_told_and_the_server_goes_on(held: Held) -> None:
    with serving(held) as it:
        inner, held.run = held.run, lambda batch: 1 / 0  # type: ignore[assignment]
        answer = it.client("POST", COMPLETE, {"prompt": "a"})
        assert (answer.status, answer.code) == (500, "failed")
        stream = it.client("POST", COMPLETE, {"prompt": "a", "stream": True})
        assert stream.events[-1]["error"]["code"] == "failed"
        held.run = inner
        assert it.client("POST", COMPLETE, {"prompt": "a", "max_tokens": 1}).status == 200


def test_a_token_is_asked_for_and_never_logged(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), serving(held, token="geheim") as it:
        stranger = Client(it.client.address)
        for path in ("/metrics", "/v1/models", "/openapi.json"):
            assert (stranger("GET", path).status, it.client("GET", path).status) == (401, 200)
        assert stranger("POST", COMPLETE, {"prompt": "a"}, Authorization="Bearer geheim2").status == 401
        assert stranger("GET", "/health").status == 200
    assert len(caplog.records) > 6
    assert "geheim" not in "".join(json.dumps(vars(each), default=str) for each in caplog.records)


def test_a_page_in_a_browser_cannot_use_a_name_of_its_own(held: Held) -> None:
    with serving(held) as it:
        assert it.client("POST", COMPLETE, {"prompt": "a"}, Host="evil.example").status == 400
        assert it.client("GET", "/health", Host=f"localhost:{it.client.port}").status == 200


def test_answers_are_not_held_back_for_company_on_the_wire() -> None:
    """Nagle's algorithm, which asyncio switches off only for what is named TCP, costs 40 ms an answer."""
    from torchstone.web.serving.server import _listen

    with _listen(ServeConfig(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_damaged_bundle_is_not_served(made_once: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made_once, tmp_path / "bundle"))
    from torchstone.web.serving.server import NotServed, open_verified

    assert open_verified(bundle, ServeConfig()).format == "onnx"
    with pytest.raises(NotServed, match="has no format tflite"):
        open_verified(bundle, ServeConfig(format="tflite"))
    (bundle / "golden.json").write_text("{}")
    with pytest.raises(NotServed, match=r"golden\.json has 2 bytes"):
        open_verified(bundle, ServeConfig())
