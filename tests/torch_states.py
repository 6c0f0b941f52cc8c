"""A torch network with statistics, its state held against what a checkpoint gives, and what lies beside states."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib

import numpy as np
import torch
from torch import nn

from gradvis.backends.pytorch.checkpoints import fitting


def net(seed=0, width=5):
    """With batch norm, whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 4))
    model(torch.randn(20, 6))
    return model


class Tied(nn.Module):
    """One weight under two names, and a mask that no state_dict has."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.full((3,), -torch.inf), persistent=False)


def assert_gives(checkpoint, state, model=None):
    """Every parameter and buffer bit for bit, and the model as it was."""
    model = model or net(seed=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fitting(model, checkpoint)
    assert found.keys() == {**dict(model.named_parameters()), **dict(model.named_buffers())}.keys()
    for name, value in found.items():
        expected = state.get(name, model.state_dict(keep_vars=True).get(name))
        if expected is not None:
            assert value.dtype == expected.dtype, name
            assert torch.equal(value, expected), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


COMPANIONS = {
    "namespace": argparse.Namespace(lr=0.1, path=pathlib.Path("data")),
    "numpy scalar": np.float64(0.25),
    "numpy integer": np.int32(3),
    "numpy array": np.arange(6.0).reshape(2, 3),
    "numpy texts": np.array(["a", "bc"]),
    "numpy dtype": np.dtype("float32"),
    "random state": np.random.RandomState(0).get_state(),
    "path": pathlib.Path("runs") / "a",
    "windows path": pathlib.PureWindowsPath("c:/runs"),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "default": collections.defaultdict(list, a=[1]),
    "plain": {"a": [1, 2.0, (None, True, "x", b"y", {1})], 2: 3},
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "torch": {"dtype": torch.bfloat16, "size": torch.Size([1]), "device": torch.device("cpu")},
}
