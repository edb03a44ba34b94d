"""Pre-trains a small masked language model, grows it, and measures the saved FLOPs.

    python benchmarks/growth/language_model.py --data DATA --output RUNS/language-model

DATA contains `parallel/*/en-XX.tsv.gz`, whose English sides are the text. For each seed, the runs
are: the large model from random weights (*scratch*), a small model of half its width and depth, and
this small model grown by each method of --grown. Each run has its own complete schedule, with
warm-up and decay to 0 over its own number of steps. The results of each run are written to
OUTPUT/results.json when the run ends, and completed runs are not repeated. OUTPUT/table.md and
OUTPUT/loss.png show all runs.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import masked_text
import numpy as np
from costs import forward_pass, training
from language_model_tables import GROWN, SCRATCH, SMALL, plot, seeds_table, table
from results import Results, write

SIZES = {"hidden_dim": 128, "num_layers": 4, "num_heads": 4}
SMALL_SIZES = {"hidden_dim": 64, "num_layers": 2, "num_heads": 2}
TOKENS, LENGTH, PREDICTIONS, BATCH = 1024, 16, 3, 64
HELD_OUT_ROWS = 1280
WARMUP = 0.06
"""Fraction of the steps of a run."""
MEASUREMENTS = 20


class Text:
    """The vocabulary, the training rows, and the masked held-out rows."""

    def __init__(self, data: Path, output: Path) -> None:
        from kdkeras import data as kd

        self.boundary = TOKENS + 1
        folder, file = output / f"vocabulary-{TOKENS}", output / f"rows-{TOKENS}-{LENGTH}.npz"
        if not file.exists():
            sentences, held_out = masked_text.split(masked_text.read_english(data))
            if not folder.exists():
                kd.train_vocabulary(sentences, size=TOKENS).save(folder)
            rows = partial(masked_text.token_rows, kd.load_vocabulary(folder), length=LENGTH)
            parts = (rows(part, boundary=self.boundary) for part in (sentences, held_out))
            part = file.with_name("part-" + file.name)
            np.savez(part, **dict(zip(("rows", "held_out"), parts, strict=True)))
            part.replace(file)
        with np.load(file) as arrays:
            self.rows = arrays["rows"]
            self.held_out = self.masked(arrays["held_out"][:HELD_OUT_ROWS], 0)
        print(f"{len(self.rows):,} rows", flush=True)

    def masked(self, rows: np.ndarray, seed: int) -> masked_text.MaskedRows:
        """Masks some tokens of each row."""
        return masked_text.mask(rows, PREDICTIONS, TOKENS, self.boundary, seed)

    def part(self, seed: int, first: int, steps: int) -> masked_text.MaskedRows:
        """Returns the rows of the steps `first` to `first + steps`, in the order of the seed."""
        order = np.random.default_rng(seed).permutation(len(self.rows))
        chosen = np.take(order, np.arange(first * BATCH, (first + steps) * BATCH), mode="wrap")
        return self.masked(self.rows[chosen], seed)


def fit(student: Any, optimizer: Any, text: Text, rows: Any, steps: int) -> dict[str, Any]:
    """Trains the model; returns the held-out loss and the cost at each measurement."""
    import keras
    from masked_language_model import MaskedLanguageModel

    from kdkeras.students import forward_flops

    model = MaskedLanguageModel(student)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, jit_compile=True)
    head = 2 * student.hidden_dim * TOKENS
    forward = forward_pass(forward_flops(student, LENGTH), head, PREDICTIONS)
    held_out = text.held_out.batches(BATCH)
    every = steps // MEASUREMENTS
    done = [0]
    losses = [float(model.evaluate(held_out, verbose=0))]

    def measure(epoch: int, logs: Any = None) -> None:
        done.append((epoch + 1) * every)
        losses.append(float(model.evaluate(held_out, verbose=0)))
        print(f"{done[-1]} steps: {losses[-1]:.4f}", flush=True)

    model.fit(
        rows.batches(BATCH),
        epochs=MEASUREMENTS,
        steps_per_epoch=every,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure)],
    )
    costs = [training(forward, BATCH, count) for count in done]
    return {"parameters": student.count_params(), "steps": done, "flops": costs, "losses": losses}


def adam(rate: float, steps: int, start: int = 0) -> Any:
    from masked_language_model import WarmupLinear

    from kdkeras.optimizers import FusedAdam

    return FusedAdam(WarmupLinear(rate, max(1, round(WARMUP * steps)), steps, start), beta_2=0.98)


def from_random(
    seed: int, sizes: dict[str, int], text: Text, rate: float, steps: int
) -> tuple[dict[str, Any], Any, Any]:
    import keras
    from masked_language_model import body

    keras.utils.set_random_seed(seed)
    student, optimizer = body(TOKENS, LENGTH, **sizes), adam(rate, steps)
    return fit(student, optimizer, text, text.part(seed, 0, steps), steps), student, optimizer


def save_small(path: Path, student: Any, optimizer: Any) -> None:
    part = path.with_name("part-" + path.name)
    arrays = [v.numpy() for v in (*student.weights, *optimizer.variables)]
    np.savez(part, *arrays)
    part.replace(path)


def load_small(path: Path, rate: float, steps: int) -> tuple[Any, Any]:
    from masked_language_model import body

    student, optimizer = body(TOKENS, LENGTH, **SMALL_SIZES), adam(rate, steps)
    optimizer.build(student.trainable_variables)
    with np.load(path) as arrays:
        values = [arrays[name] for name in arrays.files]
    for variable, value in zip((*student.weights, *optimizer.variables), values, strict=True):
        variable.assign(value)
    return student, optimizer


def grown_from(
    student: Any, optimizer: Any, way: str, seed: int, text: Text, rate: float, steps: int
) -> dict[str, Any]:
    from kdkeras.growth import AdvancedKnowledge, GrowthPlan, Stacking, grow, grow_optimizer

    small_steps = int(optimizer.iterations.numpy())
    arguments: dict[str, Any] = {"sizes": {**SIZES, "intermediate_dim": 4 * SIZES["hidden_dim"]}}
    if way == "knowledge":
        arguments |= {"operators": AdvancedKnowledge(), "depth": Stacking()}
        arguments["keeps_function"] = False
    plan = GrowthPlan(**arguments, seed=seed)
    probe = {name: rows[:64] for name, rows in next(iter(probe_of(text))).items()}
    larger = grow(student, plan, probe=probe)
    if way == "function":
        fresh = grow_optimizer(optimizer, student, larger, plan)
        fresh.learning_rate = adam(rate, steps, small_steps)._learning_rate
    else:
        fresh = adam(rate, steps)
    figures = fit(larger, fresh, text, text.part(seed, small_steps, steps), steps)
    return {**figures, "certificate": larger.certificate.to_dict()}


def probe_of(text: Text) -> list[dict[str, np.ndarray]]:
    ids = text.held_out.token_ids
    return [{"token_ids": ids, "padding_mask": np.ones_like(ids)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800, help="steps of the model from scratch")
    parser.add_argument("--small-steps", type=int, default=800)
    parser.add_argument("--grown-steps", type=int, default=480)
    parser.add_argument("--rate", type=float, default=2e-3, help="maximum rate from scratch")
    parser.add_argument("--small-rate", type=float, default=2e-3)
    parser.add_argument("--grown-rate", type=float, default=2e-3)
    parser.add_argument(
        "--grown", nargs="*", choices=GROWN, default=list(GROWN), help="methods of growth"
    )
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.output / "results.json")
    text = None
    for seed in arguments.seeds:
        settings = {
            SMALL: (arguments.small_rate, arguments.small_steps),
            SCRATCH: (arguments.rate, arguments.steps),
            **dict.fromkeys(arguments.grown, (arguments.grown_rate, arguments.grown_steps)),
        }
        small_file = arguments.output / (
            f"small-{arguments.small_rate:g}-{arguments.small_steps}-{seed}.npz"
        )
        for way, (rate, steps) in settings.items():
            key = f"{way}/{rate:g}/{steps}/{seed}"
            if way in GROWN:
                key += f"/{arguments.small_rate:g}/{arguments.small_steps}"
            if key in results:
                continue
            text = text or Text(arguments.data, arguments.output)
            print(key, flush=True)
            if way in GROWN:
                student, optimizer = load_small(
                    small_file, arguments.small_rate, arguments.small_steps
                )
                figures = grown_from(student, optimizer, way, seed, text, rate, steps)
            else:
                sizes = SMALL_SIZES if way == SMALL else SIZES
                figures, student, optimizer = from_random(seed, sizes, text, rate, steps)
                if way == SMALL:
                    save_small(small_file, student, optimizer)
            run = {"way": way, "rate": rate, "planned": steps, "seed": seed}
            results.add(key, {**run, **figures})
    runs = list(results.values())
    write(arguments.output / "table.md", table(runs) + "\n" + seeds_table(runs))
    plot(runs, arguments.output / "loss.png")
    print(table(runs), seeds_table(runs), sep="\n")


if __name__ == "__main__":
    main()
