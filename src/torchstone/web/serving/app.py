"""The routes: what is asked becomes rows or texts, what comes back becomes an answer."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from torchstone.export.standalone.decoding import Sampling, Stream, Wrong
from torchstone.export.standalone.inference import GENERATIVE, Predictor
from torchstone.web.serving.batching import Batcher, Failed, Text
from torchstone.web.serving.config import ServeConfig
from torchstone.web.serving.gate import Gate
from torchstone.web.serving.messages import (
    Choice,
    Completion,
    CompletionRequest,
    Model,
    Models,
    PredictRequest,
    PredictResponse,
    Problem,
    State,
    Usage,
    problem,
)
from torchstone.web.serving.metrics import Metrics

REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what}
    for status, what in {
        400: "the body is no JSON",
        401: "no token, or another",
        408: "the body did not come in time",
        413: "the body is too large",
        422: "a field is wrong, or beyond a limit",
        429: "too many requests are under way",
        500: "the model failed",
        503: "not in time, or about to stop",
    }.items()
}
AT_ONCE = 4_000
"""Characters or ids that are read without a thread: a millisecond's work."""
PICTURE_PIXELS = 50_000_000
"""Pixels of a picture that is sent; a small file can hold many more."""


class Refused(Exception):
    """Becomes an answer with `status`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def build(predictor: Predictor, config: ServeConfig, token: str | None = None) -> Gate:
    """The application around one model. `gate.draining` is for whoever stops it."""
    metrics = Metrics()
    batcher = Batcher(predictor, config.max_batch, config.batch_window_ms / 1000, metrics.rows.observe)
    desk = Desk(predictor, config, batcher, metrics)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.create_task(batcher.run())
        yield
        loop.cancel()

    app = FastAPI(title="torchstone serve", docs_url=None, redoc_url=None, lifespan=life)
    gate = Gate(app, config, metrics, token)
    if config.is_local and token is None:
        # A page in a browser must not reach a server on this machine through a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    _routes(app, desk, gate)
    _troubles(app)
    return gate


def _routes(app: FastAPI, desk: Desk, gate: Gate) -> None:
    @app.get("/health")
    async def health() -> State:
        """200 while the process answers."""
        return State(status="ok")

    @app.get("/ready", responses={503: {"model": State, "description": "about to stop"}})
    async def ready() -> Any:
        """200 while new work is taken."""
        if gate.draining:
            return JSONResponse(State(status="draining").model_dump(), 503)
        return State(status="ready")

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: REFUSED[401]})
    async def metrics() -> PlainTextResponse:
        """Counts in Prometheus' text format."""
        desk.metrics.waiting.set(desk.batcher.depth)
        return PlainTextResponse(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", responses={each: REFUSED[each] for each in (401, 429, 503)})
    async def models() -> Models:
        """The one model."""
        return Models(data=[Model(id=desk.name)])

    @app.post("/v1/predict", responses=REFUSED)
    async def predict(asked: PredictRequest) -> PredictResponse:
        """What the model says of each input: a class, a value, an embedding, or a text."""
        return await desk.predict(asked)

    @app.post("/v1/completions", response_model=Completion, responses=REFUSED | {404: {"model": Problem}})
    async def completions(asked: CompletionRequest) -> Any:
        """Texts that continue each prompt; with `stream`, events as they come, then `[DONE]`."""
        return await desk.complete(asked)


def _troubles(app: FastAPI) -> None:
    """Every failure has the same shape; what was sent is never echoed."""

    def handler(trouble: type[Exception], answer: Callable[[Any], JSONResponse]) -> None:
        async def handle(request: Request, error: Exception) -> JSONResponse:
            return answer(error)

        app.add_exception_handler(trouble, handle)

    handler(RequestValidationError, _invalid)
    handler(Refused, lambda it: JSONResponse(problem(it.code, str(it)), it.status))
    handler(Wrong, lambda it: JSONResponse(problem("invalid", str(it)), 422))
    handler(
        Exception, lambda it: JSONResponse(problem("failed", "a fault of the server; its log says more"), 500)
    )
    handler(Failed, lambda it: JSONResponse(problem("failed", str(it)), 500))
    handler(
        HTTPException,
        lambda it: JSONResponse(problem("invalid", str(it.detail)), it.status_code, headers=it.headers),
    )


def _invalid(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(each) for each in first["loc"] if each != "body")
    told = f"{place}: {first['msg']}" if place else str(first["msg"])
    # A message may quote what was sent, and that may hold halves of characters.
    return JSONResponse(problem("invalid", _clean(told)[:500], _clean(place)[:500] or None), 422)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


class Desk:
    """Between messages and the model."""

    def __init__(self, predictor: Predictor, config: ServeConfig, batcher: Batcher, metrics: Metrics) -> None:
        self.predictor, self.config, self.batcher, self.metrics = predictor, config, batcher, metrics
        self.name = config.name or predictor.folder.resolve().name
        limits = [each for each in (config.max_length, predictor.limit) if each is not None]
        self.longest = min(limits, default=None)
        self.makes_text = predictor.task in GENERATIVE

    # --- /v1/predict ------------------------------------------------------------------------------

    async def predict(self, asked: PredictRequest) -> PredictResponse:
        began = time.monotonic()
        inputs = [asked.inputs] if isinstance(asked.inputs, str) else list(asked.inputs)
        self._countable(inputs)
        given = asked.model_dump(exclude_none=True, exclude={"inputs"})
        if self.makes_text:
            sampling = self._sampling(given.pop("max_new_tokens", 50), given.pop("stop", []), given)
            texts = await self._all(await self._streams(inputs, sampling))
            results = [self.predictor.told(each.stream) for each in texts]
        elif given:
            raise Wrong(f"{next(iter(given))} has no effect: this model makes no text")
        else:
            results = await self.batcher.answer(await self._read(inputs))
        return PredictResponse(
            schema="torchstone.predict/1",
            task=self.predictor.task,
            format=self.predictor.format,
            results=results,
            seconds=time.monotonic() - began,
        )

    async def _read(self, inputs: list[Any]) -> list[Any]:
        """Rows of ids, or pixels. Long texts and pictures take time, so they are read in a thread."""
        read = self._picture if self.predictor.task == "vision" else self._row
        if read == self._row and sum(map(len, inputs)) < AT_ONCE:
            return [self._row(each) for each in inputs]
        return await asyncio.to_thread(lambda: [read(each) for each in inputs])

    def _row(self, given: str | list[int]) -> list[int]:
        if isinstance(given, str) and _clean(given) != given:
            raise Wrong("a text holds half of a character, which UTF-8 cannot say")
        row = self.predictor.encode(given) if isinstance(given, str) else given
        rows = self.predictor.about["vocab_size"]
        if not row:
            raise Wrong("an input has no tokens")
        if rows is not None and max(row) >= rows:
            raise Wrong(f"{max(row)} is no token id of this model, which knows 0 to {rows - 1}")
        if self.longest is not None and len(row) > self.longest:
            raise Wrong(f"an input has {len(row)} tokens, the limit is {self.longest}")
        return row

    def _picture(self, given: str | list[int]) -> Any:
        if not isinstance(given, str):
            raise Wrong("this model takes pictures: send each as base64")
        from PIL import Image

        try:
            data = base64.b64decode(given.rpartition("base64,")[2], validate=True)
            with Image.open(io.BytesIO(data)) as opened:
                if opened.width * opened.height > PICTURE_PIXELS:
                    raise Wrong(f"a picture has more than {PICTURE_PIXELS} pixels")
            return self.predictor.pixels(io.BytesIO(data))
        except Wrong:
            raise
        except Exception:  # Pillow raises dozens of kinds on broken files
            raise Wrong("an input is no picture in base64") from None

    # --- /v1/completions --------------------------------------------------------------------------

    async def complete(self, asked: CompletionRequest) -> Any:
        if not self.makes_text:
            raise Wrong(f"a model for {self.predictor.task} completes nothing: POST /v1/predict")
        if asked.model is not None and asked.model != self.name:
            raise Refused(404, "model_not_found", f"this server has the model {self.name!r} only")
        one = isinstance(asked.prompt, str) or isinstance(asked.prompt[0], int)
        prompts: list[Any] = [asked.prompt] if one else list(asked.prompt)
        self._countable(prompts)
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        given = asked.model_dump(include={"temperature", "top_k", "top_p", "seed"}, exclude_none=True)
        streams = await self._streams(prompts, self._sampling(asked.max_tokens, stop, given))
        head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.name,
        }
        if asked.stream:
            return StreamingResponse(self._events(streams, head), media_type="text/event-stream")
        texts = await self._all(streams)
        choices = [
            Choice(
                index=place,
                text=each.shown,
                token_ids=each.stream.made,
                finish_reason=_reason(each),
            )
            for place, each in enumerate(texts)
        ]
        return Completion(**head, choices=choices, usage=_usage(streams))

    async def _events(self, streams: list[Stream], head: dict[str, Any]) -> AsyncIterator[str]:
        """What was added to each text since the last event; a failure is an event, for the status is sent."""
        sent = [""] * len(streams)
        told = [False] * len(streams)
        try:
            async for texts in self._counted(streams):
                for place, each in enumerate(texts):
                    if each.error is not None:
                        raise each.error
                    more = each.shown[len(sent[place]) :] if each.shown.startswith(sent[place]) else ""
                    if told[place] or not (more or each.over):
                        continue
                    sent[place] += more
                    told[place] = each.over
                    choice = {"index": place, "text": more, "finish_reason": _reason(each), "logprobs": None}
                    yield _event({**head, "object": "text_completion", "choices": [choice]})
            yield "data: [DONE]\n\n"
        except (Wrong, Failed) as trouble:
            yield _event(problem("failed", str(trouble)))

    # --- texts ------------------------------------------------------------------------------------

    async def _streams(self, given: list[Any], sampling: Sampling) -> list[Stream]:
        return [self.predictor.open_stream(row, sampling) for row in await self._read(given)]

    def _sampling(self, tokens: int, stop: list[str], given: dict[str, Any]) -> Sampling:
        if tokens > self.config.max_new_tokens:
            raise Wrong(f"{tokens} tokens are asked for, the limit is {self.config.max_new_tokens}")
        return Sampling(tokens, stop=stop, **{"temperature": 1.0, **given})

    async def _counted(self, streams: list[Stream]) -> AsyncIterator[list[Text]]:
        try:
            async for texts in self.batcher.texts(streams):
                yield texts
        finally:
            self.metrics.tokens.inc(sum(len(each.made) for each in streams))

    async def _all(self, streams: list[Stream]) -> list[Text]:
        texts = [each async for each in self._counted(streams)][-1]
        for each in texts:
            if each.error is not None:
                raise each.error
            each.shown = each.stream.text
        return texts

    def _countable(self, inputs: list[Any]) -> None:
        if len(inputs) > self.config.max_inputs:
            raise Wrong(f"{len(inputs)} inputs are sent, the limit is {self.config.max_inputs}")


def _reason(text: Text) -> Any:
    if text.ended is None:
        return None
    return "stop" if text.ended in ("eos", "stop") else "length"


def _usage(streams: list[Stream]) -> Usage:
    prompt, made = sum(len(each.given) for each in streams), sum(len(each.made) for each in streams)
    return Usage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
