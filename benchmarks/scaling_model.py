"""Computes a model, not a measurement, of the speed of several GPUs and hosts.

    python benchmarks/scaling_model.py

Every GPU has its own `--batch-size` pairs (weak scaling). A step takes

    T(N) = compute + 2 (N-1)/N * gradient / bandwidth + (N-1) * rows / bandwidth + hops * latency

for a ring all-reduce of the gradients and an all-gather of the embeddings (and the reverse for
their gradients), with the bandwidth of the slowest link in the ring, no overlap with the
computation, and no time for the larger in-batch matrices. The efficiency is compute / T(N). Bytes
are counted as in `benchmarks/replicas.py`; computing times and bandwidths are assumptions.
"""

from __future__ import annotations

import argparse


def step_ms(
    n: int, compute: float, gradient: float, rows: float, bandwidth: float, latency: float
) -> float:
    """Returns milliseconds per step on `n` GPUs; bytes in MB, bandwidth in GB/s, latency in ms."""
    if n == 1:
        return compute
    ring = 2 * (n - 1) / n * gradient / bandwidth
    gathered = (n - 1) * rows / bandwidth
    return compute + ring + gathered + 2 * (n - 1) * latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--compute", type=float, nargs="+", default=[5, 20, 100], help="ms per step"
    )
    parser.add_argument("--table-rows", type=int, default=65_536)
    parser.add_argument("--dim", type=int, default=256, help="width of the table")
    parser.add_argument("--output-dim", type=int, default=384, help="width of the embedding")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs per GPU")
    parser.add_argument("--tokens", type=int, default=16, help="tokens per sentence")
    parser.add_argument("--inside", type=float, default=200, help="GB/s between GPUs of a host")
    parser.add_argument("--between", type=float, default=10, help="GB/s between hosts")
    parser.add_argument("--latency", type=float, default=0.02, help="ms per hop")
    given = parser.parse_args()
    dense = 4 * (given.table_rows * (given.dim + 1) + given.dim * given.output_dim) / 1e6
    named = 2 * given.batch_size * given.tokens * (4 * (given.dim + 1) + 8) / 1e6
    # Two sides and the teacher's vectors, and the gradients of the two sides.
    rows = 5 * given.batch_size * given.output_dim * 4 / 1e6
    print(f"gradient {dense:.1f} MB dense; rows of the batch {named:.1f} MB per GPU (LazyAdam)")
    print(f"embeddings and their gradients {rows:.1f} MB per GPU\n")
    print("| GPUs | optimizer | " + " | ".join(f"{c:g} ms" for c in given.compute) + " |")
    print("|---" * (2 + len(given.compute)) + "|")
    ways = [("8, one host", 8, given.inside), ("32, four hosts", 32, given.between)]
    for name, n, bandwidth in ways:
        for optimizer, gradient, gathered in (
            ("FusedAdam", dense, rows),
            ("LazyAdam", 0.0, rows + named),
        ):
            cells = []
            for compute in given.compute:
                ms = step_ms(n, compute, gradient, gathered, bandwidth, given.latency)
                cells.append(f"{ms:.1f} ms, {100 * compute / ms:.0f} %")
            print(f"| {name} | {optimizer} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
