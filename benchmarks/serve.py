"""`edgedet serve` under load, on loopback: ``python benchmarks/serve.py [ARTIFACT]``.

A service of its own process is asked by a client in this one, which shares the machine's cores with it.

- **Saturation**: `--connections` clients, each asking again when it has its answer; answers per second.
- **Twice that**: requests begin at fixed times, whether or not others have been answered. Latency counts from when a request
  was due. What is too much is refused with 503, and counted.
- **Answers**: every image has a logit of its own that is known beforehand, so that a lost or a mixed answer is seen.
- **Refusals**: bodies that are no images, too large, or too many pixels get a 4xx, and the service answers afterwards.
- **Memory**: resident, after the first tenth of the requests and after the last.

Without an artifact ResNet-50 in INT8 is taken. Writes benchmarks/results/serve.json and draws benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import marks
import msgspec
import numpy as np
from PIL import Image

from edgedet.artifact import Artifact, tool_versions
from edgedet.bench import probe, table
from edgedet.data.simulate import golden_images
from edgedet.runtime.detector import Detector

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "serve.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- serve -->", "<!-- /serve -->"
TOLERANCE = 1e-3
"""Of a logit: a batch of another size may round in another order; images differ by far more."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?", type=Path)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--draw", action="store_true", help="only draw the table")
    given = parser.parse_args(arguments)
    if not given.draw:
        artifact = Artifact.load(given.artifact) if given.artifact else _anchor()
        found = measured(artifact, connections=given.connections, requests=given.requests, seconds=given.seconds)
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    draw(README, msgspec.json.decode(RESULTS.read_bytes()))


def measured(artifact: Artifact, *, connections: int, requests: int, seconds: float) -> dict[str, Any]:
    """Everything, from one service."""
    bodies = images(64)
    with Detector.load(artifact, runtime="onnxruntime", threads=1) as detector:
        expected = [prediction.logit for prediction in detector.predict(bodies)]
    if len({round(float(logit or 0), 3) for logit in expected}) < len(bodies) // 2:
        raise SystemExit(f"{artifact.path}: gives too many images the same logit to tell a mixed answer")
    device = probe.device()
    with service(artifact) as (process, port):
        load = asyncio.run(_load(port, process.pid, bodies, expected, connections, requests, seconds))
    versions = tool_versions("fastapi", "uvicorn", "onnxruntime")
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    about = {"name": artifact.path.name, "digest": artifact.digest, "connections": connections}
    return {"date": date, "device": device, "versions": versions, **about, **load}


async def _load(
    port: int, pid: int, bodies: Sequence[bytes], expected: Sequence[float], connections: int, requests: int, seconds: float
) -> dict[str, Any]:
    await closed_loop(port, bodies, connections=connections, requests=requests // 10)
    before = resident(pid)
    started = time.perf_counter()
    answers = await closed_loop(port, bodies, connections=connections, requests=requests)
    rate = requests / (time.perf_counter() - started)
    late = await open_loop(port, bodies, rate=2 * rate, seconds=seconds)
    refused = {name: await _status(port, body) for name, body in refusals().items()}
    after = await closed_loop(port, bodies, connections=1, requests=len(bodies))
    return {
        "requests": requests,
        "saturation_per_second": rate,
        "closed": _quantiles([each.seconds for each in answers]),
        "answers": judged(answers, expected),
        "offered_per_second": 2 * rate,
        "open": _quantiles([each.seconds for each in late if each.status == 200]),
        "open_statuses": {str(status): count for status, count in sorted(Counter(each.status for each in late).items())},
        "open_answers": judged([each for each in late if each.status == 200], expected),
        "refusals": refused,
        "after_refusals": judged(after, expected),
        "resident_bytes": {"after_a_tenth": before, "at_the_end": resident(pid)},
    }


class Reply(msgspec.Struct, frozen=True):
    """Which body was sent, what came, and after how long; status 0 is no answer."""

    body: int
    status: int
    logit: float | None
    seconds: float


def judged(replies: Sequence[Reply], expected: Sequence[float]) -> dict[str, int]:
    """Of the replies: right, with another image's logit (mixed), or without an answer (lost)."""
    wrong = [each for each in replies if each.logit is not None and abs(each.logit - expected[each.body]) > TOLERANCE]
    lost = [each for each in replies if each.logit is None]
    return {"right": len(replies) - len(wrong) - len(lost), "mixed": len(wrong), "lost": len(lost)}


async def closed_loop(port: int, bodies: Sequence[bytes], *, connections: int, requests: int) -> list[Reply]:
    """`requests` in all; each connection asks again when it has its answer."""
    turns = iter(range(requests))
    replies: list[Reply] = []

    async def client() -> None:
        async with connected(port) as ask:
            for turn in turns:
                replies.append(await _asked(ask, bodies, turn % len(bodies), time.perf_counter()))

    await asyncio.gather(*(client() for _ in range(connections)))
    return replies


async def open_loop(port: int, bodies: Sequence[bytes], *, rate: float, seconds: float) -> list[Reply]:
    """Requests due every 1 / `rate` seconds, each on a connection that is free or new; latency counts from when it was due."""
    free: list[Connection] = []
    began = time.perf_counter()

    async def one(turn: int) -> Reply:
        due = began + turn / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        connection = free.pop() if free else await Connection.to(port)
        reply = await _asked(connection, bodies, turn % len(bodies), due)
        free.append(connection)
        return reply

    replies = await asyncio.gather(*(one(turn) for turn in range(int(rate * seconds))))
    for connection in free:
        connection.close()
    return replies


class Connection:
    """HTTP/1.1, kept alive, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        """POST `body`; status and what came."""
        head = f"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)\r\ncontent-length: *(\d+)", answer)
        content = await self._reader.readexactly(int(length[1]) if length else 0)
        return int(answer.split()[1]), content

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    connection = await Connection.to(port)
    try:
        yield connection
    finally:
        connection.close()


async def _asked(ask: Connection, bodies: Sequence[bytes], place: int, due: float) -> Reply:
    try:
        status, content = await ask(bodies[place])
    except (OSError, asyncio.IncompleteReadError):
        return Reply(place, 0, None, time.perf_counter() - due)
    logit = json.loads(content)["logit"] if status == 200 else None
    return Reply(place, status, logit, time.perf_counter() - due)


async def _status(port: int, body: bytes) -> int:
    """The status for `body`, on a connection of its own, as the service may close it in the middle of a body."""
    async with connected(port) as ask:
        try:
            return (await ask(body))[0]
        except (OSError, asyncio.IncompleteReadError):
            return 0


def refusals() -> dict[str, bytes]:
    """Bodies that no image comes from."""
    photo = images(1)[0]
    return {
        "empty": b"",
        "text": b"this is no image" * 100,
        "a JPEG cut in half": photo[: len(photo) // 2],
        "a PNG of 60,000 x 60,000 pixels": _bomb(60_000),
        "21 MB": photo + bytes(21_000_000),
    }


def _bomb(side: int) -> bytes:
    """A PNG whose header promises `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def images(count: int) -> list[bytes]:
    """JPEG files of 256 pixels: photographs, each in several tints, so that no two have the same logit."""
    made, tiles = [], golden_images()
    for number in range(count):
        pixels = np.asarray(Image.open(io.BytesIO(tiles[number % len(tiles)])).convert("RGB")).astype(np.float32)
        tint = np.array([1.0, 1.0 - 0.12 * (number // len(tiles)), 1.0 - 0.2 * (number // len(tiles))], np.float32)
        file = io.BytesIO()
        Image.fromarray((pixels * tint).astype(np.uint8)).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


@contextlib.contextmanager
def service(artifact: Artifact) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`edgedet serve` on a free port, ended afterwards."""
    with socket.socket() as probed:
        probed.bind(("127.0.0.1", 0))
        port = probed.getsockname()[1]
    command = [sys.executable, "-m", "edgedet", "serve", str(artifact.path), "--port", str(port), "--runtime", "onnxruntime"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port, process)
            yield process, port
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            raise SystemExit("the service has ended; run `edgedet serve` by hand to see why")
        time.sleep(0.1)
    raise SystemExit("the service does not answer after a minute")


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.percentile(np.array(seconds) * 1e3, (50, 99))
    return {"n": len(seconds), "p50_ms": float(p50), "p99_ms": float(p99)}


def _anchor() -> Artifact:
    from edgedet.export.anchor import anchors

    return anchors()[1]


def draw(readme: Path, record: Mapping[str, Any]) -> None:
    """Put the table of `record` between its marks in `readme`."""
    marks.put(readme, BEGIN, END, markdown(record))


def markdown(record: Mapping[str, Any]) -> str:
    """The figures as a table of names and values, and where they were measured."""
    device, memory = msgspec.convert(record["device"], probe.Device), record["resident_bytes"]
    statuses = ", ".join(f"{count:,} x {status}" for status, count in record["open_statuses"].items())
    answers = Counter(record["answers"]) + Counter(record["open_answers"])
    rows = [
        ("saturation, answers/s", f"{record['saturation_per_second']:.1f} ({record['connections']} connections)"),
        ("there, p50 and p99 ms", _pair(record["closed"])),
        ("offered, requests/s", f"{record['offered_per_second']:.1f}"),
        ("there, p50 and p99 ms of what is answered", _pair(record["open"])),
        ("there, statuses", statuses),
        ("right, mixed, lost answers", f"{answers['right']:,}, {answers['mixed']}, {answers['lost']}"),
        *((f"status for {name}", str(status)) for name, status in record["refusals"].items()),
        ("resident MB after a tenth, at the end", f"{memory['after_a_tenth'] / 1e6:.1f}, {memory['at_the_end'] / 1e6:.1f}"),
    ]
    notes = [f"{record['name']} on {device.name}, {device.cores} cores shared with the client, {record['date'][:10]}"]
    notes += [warning] if (warning := probe.busy(device)) else []
    lines = table.grid(["figure", "value"], rows, right=[False, True])
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _pair(found: Mapping[str, float]) -> str:
    return f"{found['p50_ms']:.1f}, {found['p99_ms']:.1f}" if found else table.NOTHING


if __name__ == "__main__":
    main()
