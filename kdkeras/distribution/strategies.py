"""The `tf.distribute` strategy of the process, chosen by name or by environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum

import tensorflow as tf

from kdkeras.errors import InputError

__all__ = ["StrategyName", "choose_strategy"]


class StrategyName(StrEnum):
    """Names of strategies."""

    NONE = "none"
    MIRRORED = "mirrored"
    MULTI_WORKER = "multi_worker"
    TPU = "tpu"


@dataclass
class _Chosen:
    """The strategy of the process; a second MirroredStrategy would break the first one."""

    key: tuple[StrategyName, int | None] | None = None
    strategy: tf.distribute.Strategy | None = None


_chosen = _Chosen()


def choose_strategy(name: str | None = None, replicas: int | None = None) -> tf.distribute.Strategy:
    """Returns the strategy of the process, which the first call creates.

    Build the student, the Distiller and the optimizer inside its scope. The scope
    of `"none"` has no effect, so the same script runs on one device and on several.

    Args:
        name: `"none"` (one device), `"mirrored"` (the GPUs of this machine),
            `"multi_worker"` (the machines in the environment variable `TF_CONFIG`)
            or `"tpu"` (the TPU in the environment variable `TPU_NAME`, or a local
            one). None (the default) chooses by environment: `"multi_worker"` if
            `TF_CONFIG` has several workers, `"tpu"` if `TPU_NAME` is set,
            `"mirrored"` if there are several GPUs, otherwise `"none"`.
        replicas: Number of devices of `"mirrored"`; None (the default) for all
            GPUs. Without a GPU, this many virtual CPUs are created, for tests.

    Returns:
        The strategy: of type `MirroredStrategy`, `MultiWorkerMirroredStrategy` or
        `TPUStrategy`, or TensorFlow's default strategy for `"none"`.

    Raises:
        InputError: For an unknown name, a strategy other than the one that the
            process already has, more replicas than GPUs, or if `TF_CONFIG` or the
            TPU is missing.

    Example:
        >>> strategy = choose_strategy("none")
        >>> with strategy.scope():
        ...     pass  # student, Distiller, compile
    """
    chosen = _from_environment() if name is None else _known(name)
    if replicas is not None and chosen is not StrategyName.MIRRORED:
        raise InputError(
            f"`replicas` is an argument of the strategy 'mirrored'. Received: replicas={replicas} "
            f"with {chosen.value!r}. Omit it, or choose 'mirrored'."
        )
    key = (chosen, replicas)
    if _chosen.strategy is None:
        _chosen.strategy, _chosen.key = _make(chosen, replicas), key
    elif _chosen.key != key and name is not None:
        raise InputError(
            f"A process can use only one strategy. Received: {chosen.value!r}, "
            f"replicas={replicas}, after {_chosen.key}. Start another process."
        )
    return _chosen.strategy


def _known(name: str) -> StrategyName:
    if name not in list(StrategyName):
        raise InputError(
            f"A strategy must be one of {[str(n) for n in StrategyName]}. Received: {name!r}. "
            "ParameterServerStrategy and keras.distribution cannot train a Keras 3 model on "
            "TensorFlow. Use 'mirrored' for several GPUs of one machine."
        )
    return StrategyName(name)


def _workers() -> int:
    """Returns the number of machines in `TF_CONFIG`."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        cluster = json.loads(text or "{}").get("cluster", {})
        return len(cluster.get("worker", [])) + len(cluster.get("chief", []))
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"`TF_CONFIG` must be JSON with a cluster. Received: {text[:60]!r} ({error}). "
            'Write {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
            '"index": 0}}.'
        ) from error


def _from_environment() -> StrategyName:
    if _workers() > 1:
        return StrategyName.MULTI_WORKER
    if os.environ.get("TPU_NAME"):
        return StrategyName.TPU
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return StrategyName.MIRRORED if several else StrategyName.NONE


def _make(name: StrategyName, replicas: int | None) -> tf.distribute.Strategy:
    _grow_gpu_memory()
    if name is StrategyName.MIRRORED:
        return _mirrored(replicas)
    if name is StrategyName.MULTI_WORKER:
        if _workers() < 2:
            raise InputError(
                "The strategy 'multi_worker' needs several workers in the environment variable "
                f"TF_CONFIG. Received: {os.environ.get('TF_CONFIG') or 'none'}. "
                'Set it on every machine, e.g. to {"cluster": {"worker": ["host:port", '
                '...]}, "task": {"type": "worker", "index": 0}}.'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu() if name is StrategyName.TPU else tf.distribute.get_strategy()


def _grow_gpu_memory() -> None:
    """Allocates GPU memory as needed instead of all at once."""
    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)


def _mirrored(replicas: int | None) -> tf.distribute.Strategy:
    # Listing logical devices would initialize TensorFlow and fix the number of CPUs.
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas is not None and not 1 <= replicas <= len(gpus):
            raise InputError(
                f"`replicas` must be from 1 to the number of GPUs, {len(gpus)}. Received: "
                f"replicas={replicas}. Use fewer, or omit it for all GPUs."
            )
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(gpus[:replicas]))])
    count = replicas or 1
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [cpu]) < count:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise InputError(
                "Virtual CPUs must be created before the first TensorFlow operation. Received: "
                f"replicas={count} after it. Call choose_strategy() at the start of the script."
            ) from error
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def _tpu() -> tf.distribute.Strategy:
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError, RuntimeError) as error:
        raise InputError(
            f"The strategy 'tpu' needs a TPU. Received: TPU_NAME={name} "
            f"({str(error).splitlines()[0]}). Set TPU_NAME, or use another strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
