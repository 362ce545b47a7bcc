"""The child process of `edgedet.export.tensorrt`: one graph, one engine, one answer as a JSON file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from edgedet.export.builder import MEMORY, Profile, Refused, configure, holds_half, parse, serialize, stated
from edgedet.runtime.gpu import import_tensorrt, listener
from edgedet.target import build_flags

_TYPED = ("STRONGLY_TYPED",)


def main(request: dict[str, Any]) -> None:
    """Build, and write what came of it to ``request["answer"]``."""
    trt = import_tensorrt()
    answer = {"version": str(trt.__version__), **build(trt, request, version=str(trt.__version__))}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def build(trt: Any, request: dict[str, Any], *, version: str) -> dict[str, Any]:
    """Build the engine of ``request["path"]`` as TensorRT of `version` wants it; the facts, or ``refusal``.

    The engine goes to ``request["engine"]``; the timing cache is read from ``request["timing"]`` and written back there.
    """
    logger = listener(trt, MEMORY)
    builder = trt.Builder(logger)
    try:
        network, _parser, facts = _network(trt, builder, logger, request, version)
        profile = Profile(tuple(request["batches"]), tuple(request["size"]))
        config = configure(trt, builder, network, profile, facts["flags"], request["workspace"])
        timing = Path(request["timing"])
        known = _attach(config, timing)
        start = time.perf_counter()
        engine = serialize(builder, network, config, logger)
    except Refused as refused:
        return {"refusal": refused.plain}
    seconds = time.perf_counter() - start
    Path(request["engine"]).write_bytes(engine)
    timing.write_bytes(bytes(config.get_timing_cache().serialize()))
    return {**facts, "timing_known": known, "seconds": seconds, "engine_bytes": len(engine), "memory": stated(logger.lines)}


def _network(trt: Any, builder: Any, logger: Any, request: dict[str, Any], version: str) -> tuple[Any, Any, dict[str, Any]]:
    """The network and its parser; how it is typed, whether FP16 is written into it, and the builder flags to set or clear.

    A graph with FP16 in it says itself what runs in which precision: flags would overrule what it keeps in FP32.
    """
    precision, path, how = request["precision"], request["path"], build_flags(version)
    network, parser = parse(trt, builder, logger, path, how.network)
    half, typed = holds_half(trt, network), how.strongly_typed
    if half and not typed:
        typed = True
        network, parser = parse(trt, builder, logger, path, _TYPED)
    flags = {} if typed else dict.fromkeys(how.builder.get(precision, ()), True)
    if precision == "fp32":
        flags["TF32"] = False  # on by default, with 10 bits of mantissa
    return network, parser, {"strongly_typed": typed, "half": half, "flags": flags}


def _attach(config: Any, timing: Path) -> bool:
    """Give the builder the timings of earlier builds; whether it took them. Without, it starts an empty cache."""
    before = timing.read_bytes()
    if before:
        cache = config.create_timing_cache(before)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
