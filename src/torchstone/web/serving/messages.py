"""What is asked and answered, and so the OpenAPI schema. Completions have the field names of the OpenAI API.

An unknown field is refused, and so is a value of a known one that this server does not do (`n` above 1).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Stops = Annotated[list[Stop], Field(max_length=16)]
_ASKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Temperature = Annotated[float, Field(ge=0, le=100, description="0: always the likeliest token")]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class PredictRequest(BaseModel):
    """Texts, rows of token ids, or pictures in base64. All but `inputs` is for models that make text."""

    model_config = _ASKED

    inputs: str | list[str] | list[Ids] = Field(min_length=1)
    max_new_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Temperature | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: TopP | None = None
    stop: Stops | None = None
    seed: Seed | None = None


class PredictResponse(BaseModel):
    """`results` has one object for each input, in their order; what it holds follows from the task."""

    schema_: Literal["torchstone.predict/1"] = Field("torchstone.predict/1", alias="schema")
    task: str
    format: str
    results: list[dict[str, Any]]
    seconds: float


class CompletionRequest(BaseModel):
    """`POST /v1/completions` of the OpenAI API; `top_k` is an addition."""

    model_config = _ASKED

    prompt: str | Annotated[list[str], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] = 16
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Stops | None = None
    seed: Seed | None = None
    stream: bool = False
    user: str | None = None
    n: Literal[1] = 1
    best_of: Literal[1] = 1
    echo: Literal[False] = False
    logprobs: None = None
    suffix: None = None
    logit_bias: None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0


class Choice(BaseModel):
    index: int
    text: str
    token_ids: list[int] | None = Field(
        None, description="what was made, in ids; an addition, whole answers only"
    )
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A whole answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "torchstone"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class State(BaseModel):
    status: Literal["ok", "ready", "draining"]


class Fault(BaseModel):
    message: str
    type: str
    code: str
    param: str | None = None


class Problem(BaseModel):
    """Every answer that is no success."""

    error: Fault


def problem(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    kind = "server_error" if code in ("timeout", "draining", "failed") else "invalid_request_error"
    return Problem(error=Fault(message=message, type=kind, code=code, param=param)).model_dump()
