"""Applies the faults listed in mutants.toml one at a time and reports those no test detects.

    python tools/mutate.py                         # all of them
    python tools/mutate.py --only step-batch-size  # by name
    python tools/mutate.py --output results.json   # continues where an earlier run stopped

Faults are applied to a temporary copy of the checkout, never to the checkout itself. The exit
status is 0 if every fault is detected, 1 if one survives, and 2 if the run is not valid: the
table is out of date, or the tests fail without a fault.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
OUTCOMES = {0: "survived", 1: "killed"}  # by pytest's exit status

# Each mutant's process is forked from one that has imported these already.
PRELOADED = ["tensorflow", "tensorflow_text", "keras_hub", "scipy.stats", "hypothesis", "pytest"]
PROCESSES: Any = multiprocessing.get_context("forkserver")


class InvalidRun(Exception):
    """The run cannot determine which faults the tests detect."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mutant:
    """A fault: a replacement in one file, and the tests that should detect it."""

    id: str
    file: str
    find: str
    """Exact text, which occurs once in the file."""
    replace: str
    tests: Sequence[str]
    """Files, or `file::function`."""
    note: str

    def source(self, root: Path) -> str:
        """Returns the file's text with the fault.

        Raises:
            InvalidRun: If the text to replace is not there exactly once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(self.find) != 1 or self.find == self.replace:
            raise InvalidRun(
                f"`find` must occur once in the file. Received: {self.id}, {text.count(self.find)} "
                f"times in {self.file}. Update tools/mutants.toml."
            )
        return text.replace(self.find, self.replace)

    def fingerprint(self, root: Path) -> str:
        """Returns a digest of the fault, its file, and its test files."""
        digest = hashlib.sha256(repr(astuple(self)).encode())
        for name in dict.fromkeys([self.file, *(test.split("::")[0] for test in self.tests)]):
            digest.update((root / name).read_bytes())
        return digest.hexdigest()


def read_mutants(table: Path, root: Path) -> list[Mutant]:
    """Reads the table.

    Raises:
        InvalidRun: If two mutants have one name, or the table does not fit the sources.
    """
    mutants = [Mutant(**entry) for entry in tomllib.loads(table.read_text("utf-8"))["mutant"]]
    if len({mutant.id for mutant in mutants}) < len(mutants):
        raise InvalidRun("Every mutant needs a unique id.")
    problems = []
    for mutant in mutants:
        try:
            mutant.source(root)
        except InvalidRun as error:
            problems.append(str(error))
        problems += [f"{mutant.id}: there is no {t}." for t in mutant.tests if not _exists(root, t)]
    if problems:
        raise InvalidRun("\n".join(problems))
    return mutants


def _exists(root: Path, test: str) -> bool:
    name, _, function = test.partition("::")
    path = root / name
    return path.is_file() and (not function or f"def {function}(" in path.read_text("utf-8"))


def copy_checkout(root: Path, copy: Path) -> None:
    """Copies the files that git tracks or would track."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    for name in subprocess.run(listing, check=True, capture_output=True).stdout.split(b"\0"):
        source, target = root / os.fsdecode(name), copy / os.fsdecode(name)
        if name and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def run_tests(copy: Path, tests: Sequence[str], timeout: float | None) -> tuple[str, str]:
    """Runs tests until one fails; returns the outcome and the line that explains it."""
    log = copy.with_suffix(".log")
    process = PROCESSES.Process(target=_run_pytest, args=(copy, tests, log))
    process.start()
    process.join(timeout)
    with contextlib.suppress(ProcessLookupError):  # also processes that the tests started
        os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode is None:
        process.join()
        return "timeout", f"after {timeout:g} seconds"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return OUTCOMES.get(process.exitcode, "error"), (failed or lines[-1:] or [""])[0]


def _run_pytest(copy: Path, tests: Sequence[str], log: Path) -> None:
    import pytest

    os.setsid()
    os.chdir(copy)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.insert(0, str(copy))
    # Without byte code: a file of equal size and time would be taken for the earlier one.
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    sys.exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))


def run_mutants(
    mutants: Sequence[Mutant], root: Path, jobs: int, timeout: float
) -> Iterator[tuple[Mutant, dict[str, Any]]]:
    """Yields each mutant with its outcome, once all their tests pass without a fault.

    Raises:
        InvalidRun: If the tests do not pass without a fault.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy_checkout(root, copy := Path(folder) / str(number))
            copies.put(copy)
        every = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        outcome, detail = run_tests(copy, every, None)
        if outcome != "survived":
            raise InvalidRun(f"The tests must pass without a fault. Received: {detail}")

        def run(mutant: Mutant) -> dict[str, Any]:
            copy, start = copies.get(), time.monotonic()
            original = (copy / mutant.file).read_bytes()
            try:
                (copy / mutant.file).write_text(mutant.source(copy), encoding="utf-8")
                outcome, detail = run_tests(copy, mutant.tests, timeout)
            finally:
                (copy / mutant.file).write_bytes(original)
                copies.put(copy)
            seconds = round(time.monotonic() - start, 1)
            return {"outcome": outcome, "detail": detail, "seconds": seconds}

        with ThreadPoolExecutor(jobs) as pool:
            yield from zip(mutants, pool.map(run, mutants), strict=True)


def check(arguments: argparse.Namespace) -> int:
    """Runs the mutants that have no result yet; returns the exit status."""
    root, output = arguments.root, arguments.output
    mutants = read_mutants(arguments.table, root)
    unknown = sorted(set(arguments.only) - {mutant.id for mutant in mutants})
    if unknown:
        raise InvalidRun(f"--only must name mutants. Received: {unknown}. --list shows them.")
    chosen = [m for m in mutants if not arguments.only or m.id in arguments.only]
    if arguments.list:
        print("\n".join(f"{m.id:34} {m.file}: {m.note}" for m in chosen))
        return 0
    results: dict[str, Any] = {}
    if output is not None and output.is_file():
        results = json.loads(output.read_text(encoding="utf-8"))
    prints = {m.id: m.fingerprint(root) for m in chosen}
    pending = [m for m in chosen if results.get(m.id, {}).get("fingerprint") != prints[m.id]]
    if pending:
        for mutant, found in run_mutants(pending, root, arguments.jobs, arguments.timeout):
            results[mutant.id] = {**found, "note": mutant.note, "fingerprint": prints[mutant.id]}
            print(f"{found['outcome']:9}{found['seconds']:6.1f} s  {mutant.id}", flush=True)
            if output is not None:
                output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    outcomes = {m: results[m.id]["outcome"] for m in chosen}
    errors = [m for m in chosen if outcomes[m] == "error"]
    if errors:
        raise InvalidRun("\n".join(f"{m.id}: {results[m.id]['detail']}" for m in errors))
    survivors = [m for m in chosen if outcomes[m] == "survived"]
    print(f"{len(chosen)} mutants, {len(survivors)} survived")
    print("".join(f"  {m.id}  {m.file}: {m.note}\n" for m in survivors), end="")
    return 1 if survivors else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="run these alone")
    parser.add_argument("--list", action="store_true", help="check and print the table")
    parser.add_argument("--jobs", type=int, default=1, help="mutants run at once (default 1)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per mutant")
    parser.add_argument("--output", type=Path, help="JSON file in which results are kept")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="the checkout")
    parser.add_argument("--table", type=Path, default=Path(__file__).with_name("mutants.toml"))
    multiprocessing.set_forkserver_preload(PRELOADED)
    try:
        return check(parser.parse_args(arguments))
    except InvalidRun as error:
        print(f"mutate.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
