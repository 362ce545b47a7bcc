"""The service itself: POST an image, get score, verdict and margin.

======================  =========================================================================================
``POST /v1/detect``     an image as the body, or as the part ``image`` of a form; ``?operating_point=``, ``?map=true``
``GET /v1/model``       what is served: digest, detector, input, thresholds, precision
``GET /healthz``        200 while the model answers
``GET /metrics``        for Prometheus
``GET /``               a page to drop an image on; ``/docs`` and ``/openapi.json`` describe the interface
======================  =========================================================================================

Errors are JSON, ``{"error": ...}``: 400 what is no image, 411 a form of unknown length, 413 too many bytes or pixels, 422 a
parameter that is not known, 500 a model that fails, 503 when too many requests wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from importlib import resources
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from edgedet import __version__
from edgedet.data.parallel import usable_cores
from edgedet.errors import ArtifactError, EdgedetError, ImageError
from edgedet.preprocess import DEFAULT_MAX_PIXELS, Pixels, decode
from edgedet.recipe import Config
from edgedet.runtime.base import LOGIT, Outputs
from edgedet.runtime.detector import Detector, predictions
from edgedet.serve.batcher import Batcher, Overloaded
from edgedet.serve.meters import Meters


class ServeConfig(Config, frozen=True, kw_only=True):
    """max_bytes, max_pixels: of one image. batch, wait_ms, queued: see :class:`edgedet.serve.batcher.Batcher`."""

    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 20_000_000
    max_pixels: Annotated[int, msgspec.Meta(ge=1)] = DEFAULT_MAX_PIXELS
    batch: Annotated[int, msgspec.Meta(ge=1)] = 16
    wait_ms: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    queued: Annotated[int, msgspec.Meta(ge=1)] = 256


class Answer(BaseModel):
    """What the detector says of one image."""

    score: float = Field(description="probability of fake, calibrated, 0 to 1")
    verdict: Literal["fake", "real"] = Field(description="fake when the score reaches the threshold")
    margin: float = Field(description="score less threshold")
    threshold: float
    unsure: bool | None = Field(None, description="whether to abstain; null where too few images measured the band")
    logit: float
    artifact: str = Field(description="digest of the artifact that answered")
    map: list[list[float]] | None = Field(None, description="heat-map, rows of columns, when asked for and the graph has one")


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


class _Refused(Exception):
    """An answer of another kind: status and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


_PROBLEMS: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 411, 413, 422, 500, 503)}


def create_app(detector: Detector, config: ServeConfig = ServeConfig()) -> FastAPI:
    """The application around `detector`, which it owns: its thread alone runs the model, and closes it at the end."""
    service = _Service(detector, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="edgedet", version=__version__, lifespan=lifespan)

    def problem(status: int, words: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        service.meters.requests.labels(str(status)).inc()
        return JSONResponse({"error": words}, status, headers)

    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> JSONResponse:
        return problem(error.status, str(error), {"Retry-After": "1"} if error.status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def misread(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()))

    @app.exception_handler(HTTPException)
    async def unserved(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, error.detail, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> JSONResponse:
        return problem(400, "the connection was closed before the image had come")

    @app.exception_handler(Exception)  # the server logs it besides
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return problem(500, str(error) if isinstance(error, EdgedetError) else "the model failed: the service's log says why")

    @app.post("/v1/detect", responses=_PROBLEMS)
    async def detect(
        request: Request,
        operating_point: Annotated[str | None, Query(description="half, balanced, fpr1, fpr5, worst_tier")] = None,
        map: Annotated[bool, Query(description="with the heat-map")] = False,
    ) -> Answer:
        """Score one image: the request's body, or the part `image` of a form."""
        return await service.answer(await service.body(request), operating_point, with_map=map)

    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        return service.about

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers when the model does: a blank image goes all the way through it."""
        await service.outputs(service.blank)
        return {"status": "ok", "artifact": detector.artifact.digest}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(service.meters.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return resources.files("edgedet.serve").joinpath("page.html").read_text(encoding="utf-8")

    return app


class _Service:
    """What the handlers share."""

    def __init__(self, detector: Detector, config: ServeConfig) -> None:
        self.detector, self.config = detector, config
        self.batcher = Batcher(self._run, most=config.batch, wait_ms=config.wait_ms, queued=config.queued)
        self.meters = Meters(detector.artifact.digest, lambda: self.batcher.waiting)
        # Decoding holds a core each; more at once would only make each slower, and hold more memory.
        self._decoding = asyncio.Semaphore(usable_cores())
        self._undecoded = 0
        preprocess = detector.preprocess
        self.blank: Pixels = np.zeros((preprocess.height, preprocess.width, 3), np.uint8)

    @property
    def about(self) -> dict[str, Any]:
        """What is served."""
        manifest = self.detector.artifact.manifest
        return {
            "artifact": self.detector.artifact.digest,
            "detector": manifest.detector.name,
            "input": [manifest.preprocess.height, manifest.preprocess.width],
            "geometry": manifest.preprocess.geometry,
            "thresholds": manifest.calibration.thresholds,
            "operating_point": manifest.calibration.operating_point,
            "precision": [graph.precision for graph in manifest.graphs],
            "runtime": self.detector.runtime.describe(),
            "limits": {"bytes": self.config.max_bytes, "pixels": self.config.max_pixels},
        }

    async def body(self, request: Request) -> bytes:
        """The image's bytes, never more than are allowed."""
        limit = self.config.max_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit + 4096:
            raise _too_large(limit)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await self._part(request)
        parts = bytearray()
        async for part in request.stream():
            parts += part
            if len(parts) > limit:
                raise _too_large(limit)
        if not parts:
            raise _Refused(400, "the body is empty: send an image")
        return bytes(parts)

    async def _part(self, request: Request) -> bytes:
        if not request.headers.get("content-length"):
            raise _Refused(411, "a form needs a Content-Length: send it, or the image as the body")
        async with request.form(max_files=1, max_fields=8) as form:
            part = form.get("image")
            if part is None or isinstance(part, str):
                raise _Refused(400, "the form has no file called `image`")
            data = await part.read()
        if len(data) > self.config.max_bytes:
            raise _too_large(self.config.max_bytes)
        return data

    async def answer(self, data: bytes, operating_point: str | None, *, with_map: bool) -> Answer:
        """Decode, run, calibrate."""
        started = time.perf_counter()
        calibration = self.detector.calibration
        point = operating_point or calibration.operating_point
        if point not in calibration.thresholds:
            raise _Refused(422, f"no operating point {point!r}; there are: {', '.join(calibration.thresholds)}")
        pixels = await self._pixels(data)
        decoded = time.perf_counter()
        outputs = await self.outputs(pixels)
        (found,) = predictions(self.detector.artifact, np.reshape(outputs[LOGIT], 1), calibration.thresholds[point])
        self.meters.seconds.labels("decode").observe(decoded - started)
        self.meters.seconds.labels("model").observe(time.perf_counter() - decoded)
        self.meters.requests.labels("200").inc()
        self.meters.verdicts.labels(found.verdict).inc()
        return Answer(
            **asdict(found),
            artifact=self.detector.artifact.digest,
            map=_map_of(outputs) if with_map else None,
        )

    async def _pixels(self, data: bytes) -> Pixels:
        """Decoded when it is its turn; where decoding is slower than the model, it is here that too many wait."""
        if self._undecoded >= self.config.queued:
            raise _Refused(503, f"{self._undecoded} images wait to be decoded already: try again later")
        self._undecoded += 1
        try:
            async with self._decoding:
                return await asyncio.to_thread(self._decoded, data)
        finally:
            self._undecoded -= 1

    async def outputs(self, pixels: Pixels) -> Outputs:
        """The model's outputs for one image, from a batch that it shares."""
        try:
            found = await asyncio.wrap_future(self.batcher.submit(pixels))
        except Overloaded as error:
            raise _Refused(503, str(error)) from error
        if not np.isfinite(found[LOGIT]):
            raise ArtifactError("the model gives a logit that is not finite: it cannot be used")
        return found

    def close(self) -> None:
        self.batcher.close()
        self.detector.close()

    def _run(self, pixels: Pixels) -> Outputs:
        self.meters.batch.observe(len(pixels))
        return self.detector.runtime.run(pixels)

    def _decoded(self, data: bytes) -> Pixels:
        try:
            return self.detector.preprocess.apply(decode(data, max_pixels=self.config.max_pixels))
        except ImageError as error:
            words = str(error)
            raise _Refused(413 if "more than" in words and "pixels" in words else 400, words) from error


def _too_large(limit: int) -> _Refused:
    return _Refused(413, f"the image has more than {limit:,} bytes")


def _map_of(outputs: Outputs) -> list[list[float]] | None:
    """The first output that is a map, (h, w)."""
    found = next((values for name, values in outputs.items() if name != LOGIT and values.ndim == 2), None)
    return None if found is None else [[float(value) for value in row] for row in found]


def run(detector: Detector, config: ServeConfig, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; requests that are under way are answered first.

    Raises:
        EdgedetError: the address is not to be had.
    """
    import uvicorn

    settings = uvicorn.Config(
        create_app(detector, config), host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=30
    )
    server = uvicorn.Server(settings)
    try:
        server.run()
    except SystemExit as stopped:
        if server.started:
            return  # the signal that ended it, which uvicorn raises again after the last answer
        raise EdgedetError(f"{host}:{port}: cannot be served on: is something else there? Choose another --port") from stopped
