"""Files that are damaged in any way: a result, or one line that says so."""

from __future__ import annotations

import json
import pathlib
import tempfile
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gradvis.backends.pytorch import objective_name
from gradvis.backends.pytorch.checkpoints import fitting, read_tensors
from tests.torch_states import COMPANIONS, net

FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def originals():
    """The bytes of a checkpoint by its form."""
    state, found = net(seed=1).state_dict(), {}
    folder = pathlib.Path(tempfile.mkdtemp())
    torch.save({"state_dict": state, "with": COMPANIONS["namespace"]}, folder / "a.pt")
    torch.save({"state_dict": state}, folder / "b.bin", _use_new_zipfile_serialization=False)
    save_file(state, folder / "c.safetensors")
    for file in folder.iterdir():
        found[file.suffix] = file.read_bytes()
        file.unlink()
    folder.rmdir()
    return found


ORIGINALS = originals()


def assert_one_line_or_success(path):
    for ask in (lambda: fitting(net(), path), lambda: objective_name(path), lambda: read_tensors(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ask()
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("suffix", sorted(ORIGINALS))
@given(at=st.floats(0, 1))
@FUZZ
def test_a_file_cut_anywhere_is_refused_in_one_line(tmp_path, suffix, at):
    content = ORIGINALS[suffix]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(at * (len(content) - 1))])
    with pytest.raises(ValueError, match=r"was wanted, but .*cut"):
        fitting(net(), path)
    assert_one_line_or_success(path)


@pytest.mark.parametrize("suffix", sorted(ORIGINALS))
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
@FUZZ
def test_flipped_bytes_give_a_result_or_one_line(tmp_path, suffix, flips):
    content = bytearray(ORIGINALS[suffix])
    for at, mask in flips:
        content[int(at * (len(content) - 1))] ^= mask
    path = tmp_path / f"flipped{suffix}"
    path.write_bytes(content)
    assert_one_line_or_success(path)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors", "a", "a.safetensors.index.json"])
@given(content=st.binary(max_size=200))
@FUZZ
def test_random_bytes_under_any_name_give_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_one_line_or_success(tmp_path / name)
    if len(list(tmp_path.iterdir())) == 1:
        assert_one_line_or_success(tmp_path)


TEXT = st.text("ab./~\0é", max_size=5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(content=JSON | st.fixed_dictionaries({"weight_map": JSON}))
@FUZZ
def test_any_json_as_an_index_gives_one_line(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"weight_map|names the shard|holds none"):
        fitting(net(), path)
    assert_one_line_or_success(path)
