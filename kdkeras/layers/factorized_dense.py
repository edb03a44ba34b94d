"""A dense layer whose kernel is stored as the product of two narrow matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kdkeras.errors import InputError
from kdkeras.layers.factorized_embedding import low_rank_factors
from kdkeras.layers.quantizable_dense import QuantizableDense

__all__ = ["FactorizedDense", "check_ranks", "dense"]


@keras.saving.register_keras_serializable(package="kdkeras")
class FactorizedDense(keras.layers.Layer):
    """Multiplies by two narrow matrices instead of one kernel.

    Needs `rank * (in + units)` parameters and multiplications instead of
    `in * units`, which is fewer if `rank < in * units / (in + units)`.

    Formula:

    ```
    outputs = activation(inputs @ left @ right + bias)
    ```

    Args:
        units: Width of the outputs.
        rank: Number of columns of `left`.
        activation: As for `keras.layers.Dense`.
        kernel_initializer: Initializer of both matrices.

    Call arguments:
        inputs: `(..., in)` float.

    Returns:
        `(..., units)` in the layer's compute dtype.
    """

    def __init__(
        self,
        units: int,
        rank: int,
        activation: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = int(units)
        self.rank = int(rank)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        policy = self.dtype_policy
        self.contract = QuantizableDense(
            rank,
            use_bias=False,
            kernel_initializer=self.kernel_initializer,
            dtype=policy,
            name="contract",
        )
        # The same initializer instance would draw the same numbers twice.
        again = self.kernel_initializer.clone()
        self.expand = QuantizableDense(
            units, self.activation, kernel_initializer=again, dtype=policy, name="expand"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates both matrices and the bias."""
        self.contract.build(input_shape)
        self.expand.build((*input_shape[:-1], self.rank))
        self.built = True

    def product(self) -> np.ndarray:
        """Returns the product of both matrices, `(in, units)` float64."""
        left, right = (
            layer.kernel.value.numpy().astype(np.float64) for layer in (self.contract, self.expand)
        )
        return left @ right

    @property
    def bias(self) -> Any:
        """The bias, `(units,)`."""
        return self.expand.bias

    def assign(self, kernel: Any, bias: Any, moment: np.ndarray | None = None) -> None:
        """Sets both matrices to the product nearest to `kernel`.

        Args:
            kernel: `(in, units)` float.
            bias: `(units,)` float.
            moment: `(in, in)`, mean of `x x^T` over the layer's inputs. With it,
                the error of the outputs on these inputs is minimized; with None
                (the default), the error of the kernel.
        """
        left, right = low_rank_factors(np.asarray(kernel), self.rank, moment)
        self.contract.assign(left)
        self.expand.assign(right, bias)

    def call(self, inputs: Any) -> Any:
        """Returns the outputs."""
        return self.expand(self.contract(inputs))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the input's shape with `units` last."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "rank": self.rank,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def dense(units: int, rank: int | None, **arguments: Any) -> QuantizableDense | FactorizedDense:
    """Creates a `FactorizedDense` of that rank, or a `QuantizableDense` if `rank` is None."""
    if rank is None:
        return QuantizableDense(units, **arguments)
    return FactorizedDense(units, rank, **arguments)


def check_ranks(ranks: dict[str, int], shapes: dict[str, tuple[int, int]], owner: str) -> None:
    """Checks the ranks of factorized kernels.

    Args:
        ranks: Rank by name of the kernel.
        shapes: `(in, units)` of each kernel that can be factorized, by name.
        owner: Owner of the kernels, for the error message.

    Raises:
        InputError: If a name is unknown or a rank is out of range.
    """
    for name, rank in ranks.items():
        if name not in shapes:
            raise InputError(
                f"The kernels of {owner} are {list(shapes)}. Received: {name!r}. Use one of these."
            )
        if not 1 <= rank <= min(shapes[name]):
            raise InputError(
                f"The rank of {name!r} must be from 1 to {min(shapes[name])}, the smaller side "
                f"of its kernel. Received: {name}={rank}. Omit it for a full kernel."
            )
