"""Requests that break the server's own schema: each is answered as the schema says, and never with 500.

MALFORMED_TABLE=malformed.jsonl pytest -m campaign tests/web/test_malformed.py  # docs/serve.md has the table
"""

from __future__ import annotations

import http.client
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core.transport import Response
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from web.conftest import Held, Running, serving

pytestmark = pytest.mark.timeout(400)  # whoever comes first waits for the exporters
CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]
LIMITS = {"max_new_tokens": 4, "max_body_bytes": 20_000}


def tried(number: int, share: int = 0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    quiet = settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(share)(quiet(test))


def against_the_schema(it: Running, number: int, share: int = 0) -> Counter[int]:
    """Requests to each operation that takes a body, by status."""
    statuses: Counter[int] = Counter()
    found = schemathesis.openapi.from_url(f"{it.client.address}/openapi.json")
    # Large bodies are refused by their size, before anybody reads them; schemathesis does not expect that.
    rejection = found.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "413"]
    operations = [each.ok() for each in found.get_all_operations()]
    with requests.Session() as session:
        for operation in (each for each in operations if each.method == "post"):

            @tried(number, share)
            @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
            def ask(case: schemathesis.Case) -> None:
                response = case.call(session=session)
                assert isinstance(response, Response)
                statuses[response.status_code] += 1
                assert response.status_code < 500, response.text
                case.validate_response(response, checks=CHECKS)

            ask()
    return statuses


def no_json_at_all(it: Running, number: int, share: int = 0) -> Counter[int]:
    """Bytes, and JSON of any shape, under headers of any kind."""
    statuses: Counter[int] = Counter()
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["prompt", "inputs"]), inner)
        ),
        max_leaves=8,
    )
    bodies = st.binary(max_size=200) | values.map(lambda each: json.dumps(each).encode())
    nested = st.integers(1, 9_000).map(lambda depth: b"[" * depth)
    kinds = st.sampled_from(
        ["application/json", "text/plain", "multipart/form-data", "application/json;charset=x"]
    )

    @tried(number, share)
    @given(bodies | nested, kinds, st.sampled_from(["/v1/predict", "/v1/completions"]))
    def ask(body: bytes, kind: str, path: str) -> None:
        try:
            answer = it.client("POST", path, body, **{"Content-Type": kind})
        except http.client.RemoteDisconnected:
            raise AssertionError(f"no answer to {body!r}") from None
        statuses[answer.status] += 1
        assert 400 <= answer.status < 500, (body, answer.body)
        assert set(answer.json["error"]) == {"message", "type", "code", "param"}

    ask()
    return statuses


def test_malformed_requests_are_told_what_is_wrong(held: Held) -> None:
    with serving(held, **LIMITS) as it:
        assert set(against_the_schema(it, 15)) <= {400, 413, 422}
        assert set(no_json_at_all(it, 30)) <= {400, 413, 422}
        assert it.client("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200


@pytest.mark.campaign
@pytest.mark.parametrize("share", range(5))
def test_five_thousand_malformed_requests_give_no_500(held: Held, share: int) -> None:
    """1,050 in each share: 350 to each of two operations, and 350 that no schema made."""
    with serving(held, **LIMITS) as it:
        schema = against_the_schema(it, 350, share)
        other = no_json_at_all(it, 350, share)
        assert it.client("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
    assert schema.total() + other.total() >= 1000
    if path := os.environ.get("MALFORMED_TABLE"):
        row = {"against_the_schema": sorted(schema.items()), "no_json": sorted(other.items())}
        with Path(path).open("a") as file:
            file.write(json.dumps({"share": share, **row}) + "\n")
