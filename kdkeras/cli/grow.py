"""Makes a larger student out of a trained one, which embeds as the small one did.

The grown student and a certificate (OUTPUT without .keras, plus .certificate.json) are written
when both are whole. It takes seconds; training goes on with
`kdkeras distill SET --student GROWN.keras`, which resumes as any training does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, add_seed, non_negative_int, positive_int
from kdkeras.recipe import Recipe

HELP = "make a larger student out of a trained one"

# By the names that the documentation has for them.
METHODS = {
    "hyper_cloning": "HyperCloning",
    "net2wider": "Net2Wider",
    "function_preserving": "FunctionPreserving",
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
    """Declares the arguments."""
    parser.add_argument("student", metavar="STUDENT.keras", help="the trained student")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.keras", help="the grown student"
    )
    group = parser.add_argument_group("sizes, each as it is if left out")
    for option, name, meaning in (
        ("--layers", "num_layers", "Transformer layers; a static student gets its first"),
        ("--hidden", "hidden_dim", "units of a layer; a multiple of what they are"),
        ("--heads", "num_heads", "attention heads"),
        ("--head-size", "head_size", "units of an attention head"),
        ("--intermediate", "intermediate_dim", "feed-forward units"),
        ("--embedding", "embedding_dim", "columns of a static student's table"),
    ):
        group.add_argument(option, dest=name, type=positive_int, metavar="N", help=meaning)
    group.add_argument(
        "--vocabulary", metavar="FOLDER", help="a larger vocabulary, which holds every old token"
    )
    group.add_argument(
        "--align-tokens",
        metavar="FOLDER|hf://NAME",
        help="teacher among whose tokens new ones are placed; if left out, they are made of the "
        "old vocabulary's pieces",
    )
    group = parser.add_argument_group("operators")
    group.add_argument(
        "--method",
        choices=list(METHODS),
        help="how widths grow; if left out, each by what keeps the function",
    )
    group.add_argument(
        "--depth", choices=list(DEPTHS), default="identity", help="how layers are added"
    )
    group.add_argument(
        "--change-function",
        action="store_true",
        help="also write a student that embeds otherwise (stacking, advanced_knowledge, sizes that "
        "are no multiple)",
    )
    group.add_argument(
        "--probe",
        type=Path,
        metavar="FILE",
        help="sentences, one a line, on which both are compared; some of the bundled sample's if "
        "left out",
    )
    group = parser.add_argument_group("cost of the whole run, told if the steps are given")
    for option, meaning in (
        ("--small-steps", "steps that the small student was trained for"),
        ("--main-steps", "steps that the grown one will be trained for"),
        (
            "--teacher-sentences",
            "sentences that the teacher reads once, the source sentences of a distillation set; "
            "with --teacher",
        ),
    ):
        group.add_argument(option, type=non_negative_int, metavar="N", help=meaning)
    group.add_argument(
        "--teacher",
        metavar="FOLDER|hf://NAME",
        help="sentence-transformers snapshot whose size tells what a sentence costs",
    )
    group.add_argument(
        "--batch-size",
        type=positive_int,
        default=Recipe.batch_size,
        metavar="PAIRS",
        help="pairs a step",
    )
    group.add_argument(
        "--length", type=positive_int, default=32, metavar="TOKENS", help="tokens of a sentence"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also write report.html and report.json there: certificate and costs",
    )
    add_seed(parser)
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Grows, and writes the student with its certificate."""
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
    grown = grow(student, _plan(arguments), _probe(arguments.probe))
    result = {
        "student": arguments.student,
        "output": str(output),
        "certificate": str(certificate),
        **grown.certificate.to_dict(),
    }
    if any(getattr(arguments, name) is not None for name in _COSTS):
        result["ledger"] = _ledger(student, grown, arguments).to_dict()
    with atomic_write(output) as file, atomic_write(certificate) as text:
        grown.save(file)
        text.write_text(json.dumps(grown.certificate.to_dict(), indent=2) + "\n", encoding="utf-8")
    if arguments.report is not None:
        from kdkeras.export import write_report

        result["report"] = str(
            write_report(
                arguments.report,
                title=output.stem,
                growth=grown.certificate.to_dict(),
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
            f"What a teacher costs takes its size and what it reads. Received: {given} alone. "
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
            "There must be something to grow. Received: no size and no vocabulary. "
            "Pass e.g. --layers 4."
        )
    method, aligned = arguments.method, arguments.align_tokens
    if aligned and vocabulary is None:
        raise InputError(
            "New tokens need a vocabulary. Received: --align-tokens without --vocabulary. "
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
            f"A probe needs at least one sentence. Received: {path}, empty. Leave --probe out "
            "for the bundled sample's."
        )
    return sentences


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields what grew, and what it costs."""
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
        parts = [*ledger["postings"], {"name": "all", "flops": ledger["total"]}]
        rows = [[p["name"], f"{p['flops']:.3e}"] for p in parts]
        yield table(["part of the run", "FLOPs"], rows)
    kept = "kept" if result["keeps_function"] else "NOT kept"
    yield (
        f"Function {kept}: largest error {result['maximum_error']:.1e} on {result['probe_size']} "
        f"{result['probe']}: {result['output']} (certificate: {result['certificate']})"
    )
