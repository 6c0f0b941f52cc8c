"""Provenance: fingerprints tell arrays apart, and nothing names the user or the machine."""

import sys
from types import ModuleType

import numpy as np
import pytest

from gradvis.provenance import command_line, differences, digest, versions


def test_a_digest_depends_on_dtype_shape_and_every_value():
    base = np.arange(6.0)
    others = [base.astype(np.float32), base.reshape(2, 3), base.reshape(3, 2), base[::-1]]
    others += [np.nextafter(base, 9), base[:5], base * -1]
    seen = {digest(array) for array in (base, *others)}

    assert len(seen) == len(others) + 1
    assert digest(base) == digest(base.copy()) == digest(np.repeat(base, 2)[::2])  # values, not memory layout
    assert digest(base, others[0]) != digest(others[0], base)
    assert digest(np.zeros(0)) != digest(np.zeros((0, 3)))
    assert digest(np.array([True, False])) != digest(np.array([1, 0], np.uint8))
    assert len(digest(b"", np.float64(3.0))) == 32


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["/home/ann/bin/gradvis", "surface", "model.pt"], "gradvis surface model.pt"),
        (["gradvis", "/data/ann/model.pt"], "gradvis model.pt"),
        (["gradvis", "~ann/model.pt"], "gradvis model.pt"),
        (["gradvis", "runs/model.pt"], "gradvis runs/model.pt"),
        (["gradvis", "--out=/home/ann/a b.zarr"], "gradvis '--out=a b.zarr'"),
        (["gradvis", "-o/home/ann/run.zarr"], "gradvis -orun.zarr"),
        (["gradvis", "--objective", "/home/ann/lenet.py:objective"], "gradvis --objective lenet.py:objective"),
        (["gradvis", "--objective-arg", "data=/home/ann/x.npz"], "gradvis --objective-arg data=x.npz"),
        (["gradvis", "--objective-arg=data=/home/ann/x.npz"], "gradvis --objective-arg=data=x.npz"),
        (["gradvis", "--through", "a.pt,/home/ann/b.pt,/c/ann/d.pt"], "gradvis --through a.pt,b.pt,d.pt"),
        (["gradvis", "--data", "/home/ann/ckpts/"], "gradvis --data ckpts"),
        (["gradvis", "--span", "-1:1", "--parameters", "layer3.*"], "gradvis --span -1:1 --parameters 'layer3.*'"),
    ],
)
def test_the_command_names_no_user_and_no_absolute_path(given, kept):
    assert command_line(given) == kept


def test_versions_name_frameworks_only_if_they_are_in_use(monkeypatch):
    for name in ("torch", "keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert {"gradvis", "numpy", "zarr", "xarray", "python"} == set(versions())

    torch = ModuleType("torch")
    torch.__version__ = "2.13.0+cpu"
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert versions()["torch"] == "2.13.0+cpu"


def test_differences_are_exact_and_in_words():
    assert differences({"a": float("nan"), "b": [1, 2]}, {"a": float("nan"), "b": [1, 2]}) == []
    assert differences({"a": 1}, {"a": 1.0}) == ["a is 1 there and 1.0 here"]
    assert differences({"a": None}, {}) == ["a is null there and absent here"]
    assert differences({"G": {"lr": 1}, "D": {"lr": 2}}, {"G": {"lr": 3}, "D": {"lr": 4}}) == [
        "G.lr is 1 there and 3 here",
        "D.lr is 2 there and 4 here",
    ]
    assert differences({"names": ["x" * 70]}, {"names": []}) == ["names differs"]
