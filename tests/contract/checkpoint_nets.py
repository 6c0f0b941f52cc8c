"""A network with statistics, its states and its files, in each framework."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
import torch
from safetensors.torch import save_file
from torch import nn

from gradvis.backends import pytorch
from gradvis.backends import tf as tensorflow
from gradvis.backends.tf.layers import names_of

INPUTS, CLASSES, SAMPLES = 6, 3, 11


class Torch:
    """In PyTorch: names and tensors."""

    backend = pytorch
    kernel, bias, variance = "0.weight", "1.bias", "1.running_var"
    saved = ("model.pt",)
    no_such = "model.safetensors", "writes .pt files"
    forms = ("model.pt", "old.bin", "model.safetensors")
    dtypes = ("float16", "bfloat16", "float64", "float8_e4m3fn")
    unsavable = random.Random(0), ValueError, r"something else came \(a pickle that makes a random.Random\); leave it"

    def model(self, seed: int = 0, width: int = 5) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = nn.Sequential(nn.Linear(INPUTS, width), nn.BatchNorm1d(width), nn.Linear(width, CLASSES))
            made(torch.randn(20, INPUTS))
        return made

    def state(self, model: Any) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in model.state_dict().items()}

    def given(self, state: dict[str, np.ndarray]) -> Any:
        """A checkpoint without a file."""
        return {name: torch.from_numpy(value) for name, value in state.items()}

    def lowered(self, model: Any, dtype: str) -> tuple[Any, dict[str, np.ndarray]]:
        """A checkpoint in another dtype, and its values in float64."""
        kind = getattr(torch, dtype)
        low = {n: v.to(kind) if v.is_floating_point() else v for n, v in model.state_dict().items()}
        return low, {name: value.double().numpy() for name, value in low.items()}

    def write(self, model: Any, path: Path) -> None:
        state = model.state_dict()
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=path.suffix == ".pt")

    def several(self, models: dict[str, Any], path: Path) -> None:
        torch.save({name: model.state_dict() for name, model in models.items()}, path)

    def extra(self, path: Path) -> dict[str, Any]:
        content = torch.load(path, weights_only=True)
        return {name: content[name] for name in content if name not in {"state_dict", "gradvis"}}


class Keras:
    """In Keras: arrays in order, and the files of Keras and TensorFlow."""

    backend = tensorflow
    kernel, bias, variance = "first/kernel", "norm/beta", "norm/moving_variance"
    saved = ("model.keras", "model.weights.h5")
    no_such = "model.pt", "writes .keras and .weights.h5 files of Keras models"
    forms = ("model.keras", "net.weights.h5", "whole.h5", "ck.index", "ck.data-00000-of-00001")
    dtypes = ("float16", "bfloat16", "float64", "float8_e4m3fn")
    unsavable = random.Random(0), TypeError, "numbers and strings may be stored beside a model, but .* leave it out"

    def model(self, seed: int = 0, width: int = 5) -> Any:
        made = keras.Sequential([
            keras.Input((INPUTS,)), keras.layers.Dense(width, name="first"),
            keras.layers.BatchNormalization(name="norm"), keras.layers.Dense(CLASSES, name="last"),
        ])  # fmt: skip
        rng = np.random.default_rng(seed)
        for variable in made.weights:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        return made

    def state(self, model: Any) -> dict[str, np.ndarray]:
        names = names_of(model)
        return {names[id(v)]: v.numpy().copy() for v in model.weights}

    def given(self, state: dict[str, np.ndarray]) -> Any:
        return list(state.values())

    def lowered(self, model: Any, dtype: str) -> tuple[Any, dict[str, np.ndarray]]:
        kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
        low = {name: value.astype(kind) for name, value in self.state(model).items()}
        return low, {name: value.astype("float64") for name, value in low.items()}

    def write(self, model: Any, path: Path) -> None:
        if path.name.startswith("ck."):
            tf.train.Checkpoint(model=model).write(path.with_name("ck"))
        else:
            (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)

    def several(self, models: dict[str, Any], path: Path) -> None:
        tf.train.Checkpoint(**models).write(path)

    def extra(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".keras":
            with ZipFile(path) as archive:
                return dict(json.loads(archive.read("gradvis.json"))["extra"])
        import h5py

        with h5py.File(path) as file:
            return dict(json.loads(file.attrs["gradvis"])["extra"])


NETS = {"torch": Torch, "keras": Keras}
