"""The image beside the same service with torch and transformers: size, cold start, memory.

    PYTHONPATH=tests:tests/deployment python benchmarks/image.py [--rounds 5]

Both are built first, from the bundles under models/; PEER_FLAGS are the engine's for the peer's build.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from containers import REPOSITORY, RunningContainer, build, call, find_engine  # type: ignore[import-not-found]
from record import save_result

RESULT = Path("benchmarks/results/image.json")
IMAGE, PEER = "localhost/evergreen-bench:latest", "localhost/evergreen-bench-peer:latest"
PORT = 18480
TEXTS = 200


def main() -> None:
    """Build both, measure both, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    build(IMAGE, REPOSITORY)
    build_peer()
    figures: dict[str, Any] = {}
    for name, image in (("evergreen", IMAGE), ("torch and transformers", PEER)):
        figures[name] = measure_size(image) | measure_start(image, args.rounds)
    ours, theirs = figures.values()
    ratios = {key: round(ours[key] / theirs[key], 3) for key in ours}
    save_result(RESULT, ["onnxruntime", "torch", "transformers"], images=figures, ratios=ratios)
    print(json.dumps(figures | {"ratios": ratios}, indent=2))


def build_peer() -> None:
    """Build the service that a training stack would make."""
    engine, flags = find_engine()
    ignore = [] if engine == "docker" else ["--ignorefile", "benchmarks/peers/Dockerfile.dockerignore"]
    arguments = ["--build-arg", f"BASE_IMAGE={flags['BASE_IMAGE']}"]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        arguments += ["--build-arg", f"{name}={os.environ[name]}"] if os.environ.get(name) else []
    if certificates := os.environ.get("SSL_CERT_FILE"):
        arguments += ["--secret", f"id=ca,src={certificates}"]
    more = [*flags.get("BUILD_FLAGS", "").split(), *os.environ.get("PEER_FLAGS", "").split()]
    call(
        engine, "build", "-f", "benchmarks/peers/Dockerfile", "-t", PEER, *ignore, *more, *arguments, ".", timeout=1800
    )


def measure_size(image: str) -> dict[str, float]:
    """Size on disk, and as it is pulled: all layers packed."""
    engine, _ = find_engine()
    size = int(json.loads(call(engine, "image", "inspect", image))[0]["Size"])
    packed = 0
    with subprocess.Popen([engine, "save", image], stdout=subprocess.PIPE) as saving, tempfile.TemporaryFile() as file:
        assert saving.stdout is not None
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as stream:
            while block := saving.stdout.read(1 << 20):
                stream.write(block)
        packed = file.tell()
    return {"size_mb": round(size / 1e6, 1), "packed_mb": round(packed / 1e6, 1)}


def measure_start(image: str, rounds: int) -> dict[str, float]:
    """Seconds from the order to start to the first answer, and memory once it has answered some hundred."""
    seconds, memory = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            container = RunningContainer(image, Path(folder, "state"), PORT)
            started = time.perf_counter()
            try:
                ask_first(container.start(wait=False).client)
                seconds.append(time.perf_counter() - started)
                for number in range(TEXTS):
                    container.client.post("/v1/classify", json={"text": f"word {number}"}).raise_for_status()
                main = psutil.Process(container.inspect()["State"]["Pid"])
                family = [main, *main.children(recursive=True)]
                memory.append(sum(member.memory_full_info().pss for member in family) / 1e6)
            finally:
                container.remove()
    return {
        "first_answer_seconds": round(statistics.median(seconds), 2),
        "memory_mb": round(statistics.median(memory), 1),
    }


def ask_first(client: httpx.Client) -> None:
    """Ask until there is an answer."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if client.post("/v1/classify", json={"text": "Thanks for the quick rebooking!"}).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.02)
    raise SystemExit("no answer in two minutes")


if __name__ == "__main__":
    main()
