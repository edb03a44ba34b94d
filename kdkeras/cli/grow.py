"""Makes a larger student from a trained one, with the same embeddings.

Takes seconds. Writes the grown student and a certificate (`OUTPUT.certificate.json`), which
describes what was preserved and what the student costs. Continue training with
`kdkeras distill SET --student GROWN.keras`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, add_seed, non_negative_int, positive_int
from kdkeras.recipe import Recipe

HELP = "make a larger student from a trained one"

# Class names by the value of the option.
METHODS = {
    "hyper_cloning": "HyperCloning",
    "net2wider": "Net2Wider",
    "advanced_knowledge": "AdvancedKnowledge",
    "lemon": "Lemon",
    "zero_padding": "ZeroPadding",
}
DEPTHS = {
    "identity": "IdentityBlocks",
    "stacking": "Stacking",
    "interleaving": "Interleaving",
}
_SIZES = ("num_layers", "hidden_dim", "num_heads", "head_size", "intermediate_dim", "embedding_dim")
_COSTS = ("small_steps", "main_steps", "teacher_sentences")
_PROBE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("student", metavar="STUDENT.keras", help="the trained student")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.keras", help="the grown student"
    )
    group = parser.add_argument_group("sizes (default: unchanged)")
    for option, name, meaning in (
        ("--layers", "num_layers", "Transformer layers; a static student becomes a Transformer"),
        ("--hidden", "hidden_dim", "hidden width; a multiple of the current one"),
        ("--heads", "num_heads", "attention heads"),
        ("--head-size", "head_size", "units per attention head"),
        ("--intermediate", "intermediate_dim", "feed-forward units"),
        ("--embedding", "embedding_dim", "columns of a static student's table"),
    ):
        group.add_argument(option, dest=name, type=positive_int, metavar="N", help=meaning)
    group.add_argument(
        "--vocabulary", metavar="FOLDER", help="a larger vocabulary that contains every old token"
    )
    group.add_argument(
        "--align-tokens",
        metavar="FOLDER|hf://NAME",
        help="teacher whose vectors place the new tokens (default: mean or sum of their "
        "pieces in the old vocabulary)",
    )
    group = parser.add_argument_group("operators")
    group.add_argument(
        "--method",
        choices=list(METHODS),
        help="how widths grow (default: for each size the method that preserves the function)",
    )
    group.add_argument(
        "--depth",
        choices=list(DEPTHS),
        default="identity",
        help="how layers are added",
    )
    group.add_argument(
        "--change-function",
        action="store_true",
        help="allow the embeddings to change (for stacking, interleaving, advanced_knowledge, and "
        "hidden widths that are not a multiple)",
    )
    group.add_argument(
        "--probe",
        type=Path,
        metavar="FILE",
        help="sentences for the comparison of both students, one per line (default: some of the "
        "bundled sample)",
    )
    group = parser.add_argument_group("cost of the whole run (optional)")
    for option, meaning in (
        ("--small-steps", "training steps of the small student"),
        ("--main-steps", "training steps planned for the grown student"),
        (
            "--teacher-sentences",
            "sentences that the teacher embeds: the source sentences of a distillation set; "
            "requires --teacher",
        ),
    ):
        group.add_argument(option, type=non_negative_int, metavar="N", help=meaning)
    group.add_argument(
        "--teacher",
        metavar="FOLDER|hf://NAME",
        help="sentence-transformers snapshot, for the cost of embedding a sentence",
    )
    group.add_argument(
        "--batch-size",
        type=positive_int,
        default=Recipe.batch_size,
        metavar="PAIRS",
        help="pairs per step",
    )
    group.add_argument(
        "--length", type=positive_int, default=32, metavar="TOKENS", help="tokens per sentence"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also write report.html and report.json with certificate and costs to this folder",
    )
    add_seed(parser)
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Grows a student, and writes it with its certificate."""
    from kdkeras.files import refuse_existing

    output = arguments.output
    _require_keras(output)
    certificate = output.with_suffix(".certificate.json")
    report = arguments.report
    pages = [report / name for name in ("report.html", "report.json")] if report else []
    for path in (output, certificate, *pages):
        refuse_existing(path, arguments.overwrite)
    _require_both(arguments)
    from kdkeras.cli.models import load_student
    from kdkeras.files import atomic_write
    from kdkeras.growth import grow

    student = load_student(arguments.student)
    grown: Any = grow(student, _plan(arguments), _probe(arguments.probe))
    growth = grown.certificate.to_dict()
    result = {
        "student": arguments.student,
        "output": str(output),
        "certificate": str(certificate),
        **growth,
    }
    if any(getattr(arguments, name) is not None for name in _COSTS):
        result["ledger"] = _ledger(student, grown, arguments).to_dict()
    with atomic_write(output) as file, atomic_write(certificate) as text:
        grown.save(file)
        text.write_text(json.dumps(growth, indent=2) + "\n", encoding="utf-8")
    if arguments.report is not None:
        from kdkeras.export import write_report

        result["report"] = str(
            write_report(
                arguments.report,
                title=output.stem,
                growth=growth,
                ledger=result.get("ledger"),
            )
        )
    return result


def _ledger(student: Any, grown: Any, arguments: argparse.Namespace) -> Any:
    from kdkeras.growth import FlopLedger

    size = {"sentences": 2 * arguments.batch_size, "length": arguments.length}
    ledger = FlopLedger()
    if arguments.teacher is not None:
        from kdkeras import teachers

        ledger = ledger.add_forward(
            "teacher",
            teachers.load(arguments.teacher).model.backbone,
            sentences=arguments.teacher_sentences,
            length=arguments.length,
        )
    small, main = arguments.small_steps or 0, arguments.main_steps or 0
    ledger = ledger.add_training("small run", student, steps=small, **size)
    ledger = ledger.add("growth", grown.certificate.flops_growth)
    return ledger.add_training("main run", grown, steps=main, **size)


def _require_both(arguments: argparse.Namespace) -> None:
    from kdkeras.errors import InputError

    if (arguments.teacher is None) != (arguments.teacher_sentences is None):
        given = "--teacher" if arguments.teacher is not None else "--teacher-sentences"
        raise InputError(
            f"--teacher and --teacher-sentences require each other. Received: {given} alone. "
            "Pass --teacher and --teacher-sentences, or neither."
        )


def _require_keras(output: Path) -> None:
    from kdkeras.errors import InputError

    if output.suffix != ".keras":
        raise InputError(
            f"The output must be a .keras file. Received: {output}. Name it {output.stem}.keras."
        )


def _plan(arguments: argparse.Namespace) -> Any:
    from kdkeras import growth
    from kdkeras.data import load_vocabulary
    from kdkeras.errors import InputError

    sizes = {name: getattr(arguments, name) for name in _SIZES if getattr(arguments, name)}
    vocabulary = load_vocabulary(arguments.vocabulary) if arguments.vocabulary else None
    if not sizes and vocabulary is None:
        raise InputError(
            "There must be at least one size to grow. Received: no size and no vocabulary. "
            "Pass e.g. --layers 4."
        )
    method, aligned = arguments.method, arguments.align_tokens
    if aligned and vocabulary is None:
        raise InputError(
            "--align-tokens requires --vocabulary. Received: --align-tokens without --vocabulary. "
            "Pass both, or neither."
        )
    return growth.GrowthPlan(
        sizes=sizes,
        vocabulary=vocabulary,
        tokens=growth.AlignTokens(teacher=aligned) if aligned else growth.ComposeTokens(),
        operators=getattr(growth, METHODS[method])() if method else {},
        depth=getattr(growth, DEPTHS[arguments.depth])(),
        keeps_function=not arguments.change_function,
        seed=arguments.seed,
    )


def _probe(path: Path | None) -> list[str]:
    from kdkeras import data
    from kdkeras.data.text_files import read_lines
    from kdkeras.errors import InputError

    if path is None:
        pairs = data.read_translation_pairs(data.sample_folder() / "held_out")
        each = -(-_PROBE // len(pairs))
        return [text for foreign, _ in pairs.values() for text in foreign[:each]]
    sentences = [line for _, line in read_lines(path) if line.strip()]
    if not sentences:
        raise InputError(
            f"--probe must contain at least one sentence. Received: {path}, empty. Omit it for the "
            "bundled sample."
        )
    return sentences


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields the growth of each size and its cost."""
    from kdkeras.cli.tables import table

    rows = [
        [step["size"], step["operator"], f"{step['before']:,}", f"{step['after']:,}"]
        for step in result["steps"]
    ]
    yield table(["size", "operator", "before", "after"], rows)
    tokens = result["flops_tokens"]
    costs = [
        [name, f"{result[f'{key}_before']:,}", f"{result[f'{key}_after']:,}"]
        for name, key in (("parameters", "parameters"), (f"FLOPs, {tokens} tokens", "flops"))
    ]
    yield table(["cost", "before", "after"], costs)
    if ledger := result.get("ledger"):
        parts = [*ledger["postings"], {"name": "total", "flops": ledger["total"]}]
        rows = [[p["name"], f"{p['flops']:.3e}"] for p in parts]
        yield table(["part of the run", "FLOPs"], rows)
    kept = "preserved" if result["keeps_function"] else "NOT preserved"
    yield (
        f"Function {kept}: largest error {result['maximum_error']:.1e} on {result['probe_size']} "
        f"{result['probe']}: {result['output']} (certificate: {result['certificate']})"
    )
