"""A small convolutional Keras network on scikit-learn's handwritten digits (1,797 images of 8 x 8 pixels).

    python lenet_keras.py                                    trains it, records that, writes model.keras
    mpirun -n 2 gradvis-surface model.keras                  draws its loss surface
    mpirun -n 2 gradvis-trajectory run.recording --surface   draws where training went

The data is that of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998, as it comes with scikit-learn; nothing is downloaded.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import gradvis
from gradvis.callbacks import KerasCallback


def lenet() -> keras.Model:
    """Two convolutions with batch norm, two dense layers."""
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        layers.Conv2D(16, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(10),
    ])  # fmt: skip


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8, 1) in [0, 1] and their classes."""
    images, classes = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1).astype("float32") / 16, classes


def objective() -> gradvis.Objective:
    """What gradvis-surface calls: the loss and the accuracy of this network on this data."""
    return gradvis.objective(lenet(), data=digits(), loss="cross_entropy", metrics=["accuracy"])


def train(epochs: int = 10, batch: int = 64) -> None:
    """SGD with momentum, recorded; a lower learning rate for the last three epochs."""
    keras.utils.set_random_seed(0)
    images, classes = digits()
    model = lenet()
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def told(epoch: int, logs: dict[str, float]) -> None:
        print(f"epoch {epoch + 1:2d}: accuracy in training {logs['accuracy']:.3f}")

    model.fit(
        images,
        classes,
        batch,
        epochs,
        verbose=0,
        callbacks=[
            KerasCallback("lenet_keras.py:objective", "run.recording", 10, fresh=True),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.005 if epoch >= epochs - 3 else 0.05),
            keras.callbacks.LambdaCallback(on_epoch_end=told),
        ],
    )
    gradvis.save_checkpoint("model.keras", model, objective="lenet_keras.py:objective")


if __name__ == "__main__":
    train()
