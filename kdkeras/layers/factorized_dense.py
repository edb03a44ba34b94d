"""A dense layer whose kernel is stored as a product of two narrow ones."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kdkeras.errors import InputError
from kdkeras.layers.dense import Dense
from kdkeras.layers.factorized_embedding import low_rank_factors

__all__ = ["FactorizedDense", "check_ranks", "dense"]


@keras.saving.register_keras_serializable(package="kdkeras")
class FactorizedDense(keras.layers.Layer):
    """Multiplies by two narrow matrices in place of one.

    `rank * (in + units)` numbers and products in place of `in * units`: fewer
    below the rank `in * units / (in + units)`.

    Formula:

    ```
    outputs = activation(inputs @ left @ right + bias)
    ```

    Args:
        units: Width of the outputs.
        rank: Columns of `left`.
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
        self.contract = Dense(
            rank,
            use_bias=False,
            kernel_initializer=self.kernel_initializer,
            dtype=policy,
            name="contract",
        )
        # Twice the same instance of an initializer would draw the same numbers.
        again = self.kernel_initializer.clone()
        self.expand = Dense(
            units, self.activation, kernel_initializer=again, dtype=policy, name="expand"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates both matrices and the bias."""
        self.contract.build(input_shape)
        self.expand.build((*input_shape[:-1], self.rank))
        self.built = True

    def product(self) -> np.ndarray:
        """Returns the kernel that the two are, `(in, units)` float64."""
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
            moment: `(in, in)`, mean of `x x^T` over the layer's inputs: outputs on
                these are then the nearest. None for the nearest kernel.
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


def dense(units: int, rank: int | None, **arguments: Any) -> Dense | FactorizedDense:
    """Makes a dense layer, as a product if there is a rank."""
    return Dense(units, **arguments) if rank is None else FactorizedDense(units, rank, **arguments)


def check_ranks(ranks: dict[str, int], shapes: dict[str, tuple[int, int]], owner: str) -> None:
    """Refuses ranks of kernels that do not exist, or above the kernel's own.

    Args:
        ranks: By kernel.
        shapes: `(in, units)` of what can be factorised.
        owner: Whose they are, for the error.

    Raises:
        InputError: If a name is unknown or a rank out of its range.
    """
    for name, rank in ranks.items():
        if name not in shapes:
            raise InputError(
                f"The kernels of {owner} are {list(shapes)}. Received: {name!r}. Use one of these."
            )
        if not 1 <= rank <= min(shapes[name]):
            raise InputError(
                f"The rank of {name!r} must be from 1 to {min(shapes[name])}, the smaller side "
                f"of its kernel. Received: {name}={rank}. Leave it out for a whole kernel."
            )
