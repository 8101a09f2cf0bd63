"""Ask a server what its schema allows, and what it does not: python tests/serving/fuzz.py --requests 10000

Prints how many requests got which status; ends with 1 where an answer is not as the schema says, or is a 5xx.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import schemathesis
from running import run_server
from schemathesis.engine import events, from_schema
from tiny_text_bundle import write_bundle

SETTINGS = {
    "EVERGREEN_MAX_UPLOAD_BYTES": 1 << 16,
    "EVERGREEN_MAX_JOBS": 4,
    "EVERGREEN_BODY_TIMEOUT": 3,
}
"""Small, so that limits are reached."""


@dataclass
class FuzzResult:
    """What a server answered.

    Attributes:
        statuses: requests by status.
        operations: that were asked.
        problems: checks that failed, and what the fuzzer itself could not do.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    operations: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    @property
    def n_requests(self) -> int:
        return self.statuses.total()

    @property
    def n_server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


def fuzz(url: str, n_requests: int, max_examples: int) -> FuzzResult:
    """Ask in rounds, each with a seed of its own, until so many requests were made."""
    result = FuzzResult()
    seed = 0
    while result.n_requests < n_requests:
        seed += 1
        _run_round(url, seed, max_examples, result)
    return result


def _run_round(url: str, seed: int, max_examples: int, result: FuzzResult) -> None:
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "generation": {"max-examples": max_examples, "database": "none", "no-shrink": True},
            "phases": {"examples": {"enabled": False}, "stateful": {"enabled": False}},
            # A schema can't say which labels and files there are, nor that there are as many ids as texts.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            result.problems.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            result.problems.append(repr(event.exception))
        elif isinstance(event, events.ScenarioFinished):
            _count(event, result)


def _count(event: events.ScenarioFinished, result: FuzzResult) -> None:
    for case_id, interaction in event.recorder.interactions.items():
        if interaction.response is None:
            result.problems.append(f"{event.recorder.label}: no answer")
            continue
        result.operations.add(event.recorder.label)
        result.statuses[interaction.response.status_code] += 1
        for check in event.recorder.checks.get(case_id, []):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                words = failure.message or interaction.response.text
                result.problems.append(f"{event.recorder.label}: {check.name}: {failure.title}: {words[:300]}")


def main() -> int:
    """Fuzz a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--max-examples", type=int, default=150, help="for each operation and round")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle")
        with run_server(Path(folder) / "server", bundle, **SETTINGS) as server:
            result = fuzz(server.url, args.requests, args.max_examples)
    statuses = {str(status): count for status, count in sorted(result.statuses.items())}
    print(json.dumps({"requests": result.n_requests, "server_errors": result.n_server_errors, "by_status": statuses}))
    for problem in sorted(set(result.problems)):
        print(problem, file=sys.stderr)
    return 1 if result.problems or result.n_server_errors else 0


if __name__ == "__main__":
    sys.exit(main())
