"""One `tf.distribute` strategy a process, chosen by argument or environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum

import tensorflow as tf

from kdkeras.errors import InputError

__all__ = ["StrategyName", "choose_strategy"]


class StrategyName(StrEnum):
    """Ways to train."""

    NONE = "none"
    MIRRORED = "mirrored"
    MULTI_WORKER = "multi_worker"
    TPU = "tpu"


@dataclass
class _Chosen:
    """The process's strategy: a second MirroredStrategy would poison the first."""

    key: tuple[StrategyName, int | None] | None = None
    strategy: tf.distribute.Strategy | None = None


_chosen = _Chosen()


def choose_strategy(name: str | None = None, replicas: int | None = None) -> tf.distribute.Strategy:
    """Returns the process's strategy, made at the first call.

    Build the student, the Distiller and the optimizer inside its scope; with
    `"none"` the scope changes nothing, so that one script serves all.

    Args:
        name: `"none"`, `"mirrored"` (the devices of this machine),
            `"multi_worker"` (the machines that `TF_CONFIG` names) or `"tpu"`
            (the TPU that `TPU_NAME` names, or the local one). None chooses:
            `TF_CONFIG` with several workers, then `TPU_NAME`, then several
            GPUs, else none.
        replicas: Devices of `"mirrored"`, default all GPUs. Without a GPU as
            many virtual CPUs are made, which is for testing.

    Returns:
        The strategy.

    Raises:
        InputError: For an unknown name, another strategy than the process
            already has, more replicas than GPUs, or a missing `TF_CONFIG` or
            TPU.

    Example:
        >>> strategy = choose_strategy("none")
        >>> with strategy.scope():
        ...     pass  # student, Distiller, compile
    """
    chosen = _from_environment() if name is None else _known(name)
    if replicas is not None and chosen is not StrategyName.MIRRORED:
        raise InputError(
            f"`replicas` belongs to the strategy 'mirrored'. Received: replicas={replicas} with "
            f"{chosen.value!r}. Leave it out, or choose 'mirrored'."
        )
    key = (chosen, replicas)
    if _chosen.strategy is None:
        _chosen.strategy, _chosen.key = _make(chosen, replicas), key
    elif _chosen.key != key and name is not None:
        raise InputError(
            f"A process can have one strategy. Received: {chosen.value!r}, replicas={replicas}, "
            f"after {_chosen.key}. Start another process."
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
    """Machines that `TF_CONFIG` names."""
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
                'Set it on every machine: {"cluster": {"worker": ["host:port", '
                '...]}, "task": {"type": "worker", "index": 0}}.'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu() if name is StrategyName.TPU else tf.distribute.get_strategy()


def _grow_gpu_memory() -> None:
    """Takes GPU memory as it is needed instead of all at once."""
    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)


def _mirrored(replicas: int | None) -> tf.distribute.Strategy:
    # Not the logical ones: to list them starts TensorFlow, and fixes the CPUs.
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas is not None and not 1 <= replicas <= len(gpus):
            raise InputError(
                f"`replicas` must be from 1 to the number of GPUs, {len(gpus)}. Received: "
                f"replicas={replicas}. Use fewer, or leave it out."
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
                "Virtual CPUs must be made before TensorFlow runs anything. Received: "
                f"replicas={count} after that. Call choose_strategy() first in the script."
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
            f"({str(error).splitlines()[0]}). Set TPU_NAME, or choose another strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
