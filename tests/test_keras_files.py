"""Files of Keras and TensorFlow: every form gives the same weights, nothing of the model is written."""

from __future__ import annotations

import json
from zipfile import ZipFile

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends import tf as backend
from gradvis.backends.formats import checkpoint_prefix, is_keras
from gradvis.backends.tf.checkpoints import read_weights, reader
from gradvis.backends.tf.layers import names_of
from tests.keras_files import FORMS, Pair, X, Y, by_name, network, written

layers = keras.layers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return written(tmp_path_factory.getbasetemp())


def assert_reads(model, checkpoint, wanted):
    found, names = read_weights(model, checkpoint, model.weights), names_of(model)
    assert {names[key] for key in found} >= wanted.keys()
    for variable in model.weights:
        np.testing.assert_array_equal(found[id(variable)], wanted[names[id(variable)]])


@pytest.mark.parametrize("compiled", [True, False])
def test_every_form_gives_the_same_weights_and_writes_nothing(trained, compiled):
    folder, _, wanted = trained
    model = network(compiled=compiled)
    if compiled:
        model.fit(X, Y, verbose=0)
    variables = [*model.variables, *(model.optimizer.variables if compiled else [])]
    before = [variable.numpy() for variable in variables]

    for name in FORMS:
        assert is_keras(folder / name), name
        assert_reads(model, folder / name, wanted)

    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_a_list_and_names_that_do_not_fit_say_so(trained):
    *_, wanted = trained
    model = network()
    with pytest.raises(ValueError, match="a list of 10 arrays was wanted, but 2 arrays came"):
        read_weights(model, [1, 2], model.weights)
    with pytest.raises(ValueError, match=r"the model has no \['nothing'\]"):
        read_weights(model, {"nothing": X}, model.weights)
    less = {name: value for name, value in wanted.items() if not name.startswith("norm/moving")}
    with pytest.raises(ValueError, match="the checkpoint has no 'norm/moving_mean', which the model has"):
        read_weights(model, less, model.weights)


@pytest.mark.parametrize("name", FORMS)
def test_another_network_is_refused(trained, name):
    folder, *_ = trained
    model = network(width=5)
    with pytest.raises(ValueError, match=r"does not (fit|hold)|of another architecture|hidden/kernel"):
        read_weights(model, folder / name, model.weights)


@pytest.mark.parametrize("name", ["a.keras", "a.h5", "a.weights.h5", "a/checkpoint", "b.index"])
def test_a_damaged_file_is_told(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("nothing")
    path = tmp_path / name.removesuffix("/checkpoint")
    with pytest.raises(ValueError, match=rf"{path.name.split('.')[0]}.* (is not one|is none), or it is damaged"):
        read_weights(network(), path, [])


def test_what_is_no_file_of_keras_is_told(tmp_path):
    (tmp_path / "net.pt").touch()
    for name, words in (("net.pt", "net.pt came"), ("gone.npz", "gone.npz is not there")):
        with pytest.raises(ValueError, match=rf"a .keras, .weights.h5 or .h5 file, .* was wanted, but .*{words}"):
            read_weights(network(), tmp_path / name, [])
    assert not is_keras(tmp_path / "net.pt")
    assert checkpoint_prefix(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        read_weights(network(), tmp_path / "gone.keras", [])


def test_a_module_is_read_and_a_key_chooses_between_several(tmp_path):
    one, two, empty = Pair(3.0), Pair(5.0), Pair(0.0)
    tf.train.Checkpoint(net=one).write(tmp_path / "one")
    tf.train.Checkpoint(net=one, ema=two).write(tmp_path / "two")

    def read(name, key=None):
        found = read_weights(empty, backend.Checkpoint(tmp_path / name, key), [empty.first, *empty.rest])
        return [found[id(variable)].tolist() for variable in (empty.first, *empty.rest)]

    assert read("one") == [[3.0, 2.0], [[3.0]]]
    assert read("two", "ema") == [[5.0, 2.0], [[5.0]]]
    assert read("two", "net") == [[3.0, 2.0], [[3.0]]]
    assert empty.first.numpy().tolist() == [0.0, 2.0]
    with pytest.raises(
        ValueError, match=r"several states of .*two fit the model \((ema, net|net, ema)\); give one as key"
    ):
        read("two")
    with pytest.raises(ValueError, match="nothing was saved under other, but ema, net"):
        read("two", "other")


def test_a_key_is_for_files_of_several_states(trained):
    folder, *_ = trained
    model = network()
    with pytest.raises(
        ValueError, match=r"--key chooses a state in a file of tf.train.Checkpoint, but .*keras is none"
    ):
        read_weights(model, backend.Checkpoint(folder / "model.keras", "model"), model.weights)


def test_layers_that_tensorflow_has_not_saved_are_named(tmp_path):
    class Listed(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [layers.Dense(2, name="inner")]

        def call(self, inputs):
            return self.blocks[0](inputs)

    model = Listed()
    model(X[:, 0, :, 0])
    tf.train.Checkpoint(model=model).write(tmp_path / "ckpt")
    with pytest.raises(ValueError, match=r"has not inner/kernel \(6, 2\), inner/bias \(2,\); .* lie in a list"):
        read_weights(model, tmp_path / "ckpt", model.weights)


def test_a_reader_gives_parts_and_tells_other_statistics(trained):
    folder, source, _ = trained
    model = network()
    moved = model.trainable_variables
    whole = np.concatenate([value.numpy().reshape(-1) for value in source.trainable_variables])
    other = source.get_weights()
    other[4] = other[4] + 1  # a moving statistic

    one, two, changed = (reader(model, moved, "float64", each) for each in (folder / "ck", source, other))

    np.testing.assert_array_equal(one.read(slice(0, len(whole))), whole.astype("float64"))
    np.testing.assert_array_equal(one.read(slice(7, 40)), whole[7:40])
    assert one.read(slice(0, 1)).dtype == np.float64
    assert one.rest() == two.rest() != changed.rest()


def test_a_saved_file_names_its_objective_and_keras_loads_it_as_ever(trained):
    folder, source, wanted = trained
    assert backend.objective_name(folder / "named.keras") == "net.py:objective"
    assert backend.objective_name(folder / "named.weights.h5") == "net.py:objective"
    assert [backend.objective_name(folder / name) for name in FORMS[:8]] == [None] * 8
    with ZipFile(folder / "named.keras") as archive:
        assert json.loads(archive.read("gradvis.json"))["extra"] == {"step": 3}
    for variable, value in zip(keras.saving.load_model(folder / "named.keras").weights, source.weights, strict=True):
        np.testing.assert_array_equal(variable, value)
    model = network()
    model.load_weights(folder / "named.weights.h5")
    for name, value in by_name(model).items():
        np.testing.assert_array_equal(value, wanted[name])


def test_what_cannot_be_saved_is_refused_and_leaves_the_earlier_file(trained, tmp_path, monkeypatch):
    _, model, _ = trained
    path = tmp_path / "net.keras"
    path.write_text("earlier")
    with pytest.raises(TypeError, match="numbers and strings may be stored beside a model"):
        gradvis.save_checkpoint(path, model, weights=X)
    with pytest.raises(TypeError, match="a keras.Model was wanted, but Pair came"):
        gradvis.save_checkpoint(path, Pair(1.0))
    monkeypatch.setattr("gradvis.backends.tf.saving._put", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gradvis.save_checkpoint(path, model)
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["net.keras"]
