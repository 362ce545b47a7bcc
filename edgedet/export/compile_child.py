"""The child process of `edgedet.export.compile`: one graph, one answer as a JSON file."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

_KEPT = ("Layers:", "Name: ", "Total Weights Memory", "Total Activation Memory", "Max Scratch Memory")


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
    log: list[str] = []
    errors: list[str] = []
    logger = _logger(trt, log, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request["path"]):
        return {"refusal": _parser_error(parser)}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{request['capability']}"), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.add_optimization_profile(_profile(builder, network, request))
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"refusal": {"text": " ".join(errors)}}
    return {"seconds": time.perf_counter() - start, "engine_bytes": engine.nbytes, "log": log}


def _profile(builder: Any, network: Any, request: dict[str, Any]) -> Any:
    profile = builder.create_optimization_profile()
    for position in range(network.num_inputs):
        source = network.get_input(position)
        fixed = [*request["size"], 3]
        sides = [side if side > 0 else fixed[min(axis, 2)] for axis, side in enumerate(tuple(source.shape)[1:])]
        profile.set_shape(source.name, *((batch, *sides) for batch in request["batches"]))
    return profile


def _parser_error(parser: Any) -> dict[str, str]:
    if not parser.num_errors:
        return {"text": "the file cannot be parsed as ONNX"}
    error = parser.get_error(0)
    return {"node": error.node_name(), "operator": error.node_operator(), "text": error.desc()}


def _logger(trt: Any, log: list[str], errors: list[str]) -> Any:
    class Collector(trt.ILogger):  # type: ignore[misc]
        """Keeps the kernel table and the memory figures, and the errors; everything else is noise."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(message)
            elif message.startswith(_KEPT):
                log.append(message)

    return Collector()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
