"""Time per point of a Keras model's surface, in bare forward passes: `make bench`.

A LeNet with batch norm over 1,003 images of 28 x 28 pixels (scikit-learn's digits, enlarged), two threads. The unit is
one forward pass over the same data in a `tf.function`, in the same batches as gradvis takes, and nothing else. The
third way is that of landscapeviz: `model.set_weights` and `model.evaluate` for each point. All ways are taken in turn,
again and again, and medians are compared: the machines are noisy. Results are kept in benchmarks/README.md, with the
machine they come from.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import gradvis

SAMPLES, POINTS, ROUNDS, THREADS = 1003, 4, 15, 2
layers = keras.layers


def lenet() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Conv2D(6, 5, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        layers.Conv2D(16, 5), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dense(120, "relu"), layers.Dense(84, "relu"), layers.Dense(10),
    ])  # fmt: skip
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def images() -> tuple[np.ndarray, np.ndarray]:
    pixels, classes = load_digits(return_X_y=True)
    small = pixels[:SAMPLES].astype("float32").reshape(-1, 8, 8, 1) / 16
    return tf.image.resize(small, (28, 28)).numpy(), classes[:SAMPLES]


def ways() -> dict[str, Callable[[], object]]:
    """`POINTS` points each, by name."""
    inputs, targets = images()
    model = lenet()
    objective = gradvis.objective(lenet(), (inputs, targets), "cross_entropy", metrics=["accuracy"])
    print(f"  gradvis: {objective.how}")
    plane, coords = gradvis.random_plane(objective), np.random.default_rng(0).uniform(-1, 1, (POINTS, 2))
    micro = objective.how["micro_batch"]
    batches = [tf.constant(inputs[start : start + micro]) for start in range(0, SAMPLES, micro)]
    forward = tf.function(lambda batch: model(batch, training=False), autograph=False)

    def bare() -> None:
        for _ in range(POINTS):
            for batch in batches:
                forward(batch)

    def evaluated() -> None:
        """As landscapeviz does it, with Keras' own batches of 32."""
        start = model.get_weights()
        steps = [[np.zeros_like(each) for each in start] for _ in range(2)]
        for a, b in coords.tolist():
            model.set_weights([w + a * u + b * v for w, u, v in zip(start, *steps, strict=True)])
            model.evaluate(inputs, targets, verbose=0)
        model.set_weights(start)

    def surface(**options: object) -> Callable[[], object]:
        made = gradvis.objective(lenet(), (inputs, targets), "cross_entropy", metrics=["accuracy"], **options)
        return lambda: made.evaluate(plane, coords)

    return {
        "bare forward passes": bare,
        "gradvis": lambda: objective.evaluate(plane, coords),
        "gradvis --batch-norm recalibrate": surface(batch_norm="recalibrate"),
        "gradvis --compile": surface(compile=True),
        "set_weights and evaluate": evaluated,
    }


def main() -> None:
    print(f"one process, {THREADS} threads")
    runs = ways()
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / POINTS)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in medians.items():
        print(f"  {name:34s} {1000 * seconds:7.1f} ms a point   {seconds / medians['bare forward passes']:5.2f}")
    print(f"  evaluate over gradvis: {medians['set_weights and evaluate'] / medians['gradvis']:.1f}")


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    main()
