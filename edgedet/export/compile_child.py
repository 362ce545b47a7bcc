"""The child process of `edgedet.export.compile`: one graph, one answer as a JSON file."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from edgedet.export.builder import MEMORY, Profile, Refused, configure, parse, serialize
from edgedet.runtime.gpu import listener

_KEPT = ("Layers:", "Name: ", *MEMORY)


def main(request: dict[str, Any]) -> None:
    """Compile, and write what came of it to ``request["answer"]``."""
    _limit_memory(request["memory"])
    trt = importlib.import_module("tensorrt_rtx_bindings")
    answer = {"version": trt.__version__, **_build(trt, request)}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _limit_memory(limit: int) -> None:
    """Bound this process's data; the libraries map far more address space than they use, so that is left free."""
    with contextlib.suppress(ImportError):  # not on Windows, where there is no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _build(trt: Any, request: dict[str, Any]) -> dict[str, Any]:
    logger = listener(trt, _KEPT)
    builder = trt.Builder(logger)
    try:
        network, _parser = parse(trt, builder, logger, request["path"])
        config = configure(trt, builder, network, Profile(tuple(request["batches"]), tuple(request["size"])), {})
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{request['capability']}"), 0)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        start = time.perf_counter()
        engine = serialize(builder, network, config, logger)
    except Refused as refused:
        return {"refusal": refused.plain}
    return {"seconds": time.perf_counter() - start, "engine_bytes": len(engine), "log": logger.lines}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
