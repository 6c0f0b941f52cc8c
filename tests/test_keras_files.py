"""Files of Keras and TensorFlow: every form gives the same weights, nothing of the model is written, no code runs."""

from __future__ import annotations

import json
import shutil
from zipfile import ZipFile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends import tf as backend
from gradvis.backends.formats import checkpoint_prefix, is_keras
from gradvis.backends.tf.checkpoints import read_weights, reader
from gradvis.backends.tf.layers import names_of
from gradvis.objective import NotFiniteError

layers = keras.layers
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(12, 6, 6, 1)).astype("float32"), RNG.integers(0, 3, 12)


def network(width=4, compiled=True):
    model = keras.Sequential([
        keras.Input((6, 6, 1)),
        layers.Conv2D(2, 3, name="conv"),
        layers.BatchNormalization(momentum=0.5, name="norm"),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(width, "tanh", name="hidden"),
        layers.Dense(3, name="out"),
    ])
    if compiled:
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


FORMS = (
    "model.keras", "whole.h5", "net.weights.h5", "old.weights.h5", "folder", "exported", "saved", "ck", "ck/ckpt-1",
    "ck/ckpt-1.index", "ck/ckpt-1.data-00000-of-00001", "plain", "root", "named.keras", "named.weights.h5",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network after a step of training, its files, and its weights by name."""
    folder = tmp_path_factory.mktemp("files")
    model = network()
    model.fit(X, Y, verbose=0)
    model.save(folder / "model.keras")
    keras.saving.save_model(model, folder / "folder", zipped=False)
    model.save(folder / "whole.h5")
    model.save_weights(folder / "net.weights.h5")
    with h5py.File(folder / "whole.h5") as whole, h5py.File(folder / "old.weights.h5", "w") as old:  # as Keras 2 did
        old.attrs.update(whole["model_weights"].attrs)
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", old)
    model.export(folder / "exported", verbose=False)
    tf.saved_model.save(model, folder / "saved")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "ck" / "ckpt")
    tf.train.Checkpoint(network=model).write(folder / "plain")
    tf.train.Checkpoint(model).write(folder / "root")
    for name in ("named.keras", "named.weights.h5"):
        gradvis.save_checkpoint(folder / name, model, objective="net.py:objective", step=3)
    return folder, model, by_name(model)


def by_name(model):
    names = names_of(model)
    return {names[id(variable)]: variable.numpy() for variable in model.weights}


def assert_reads(model, checkpoint, wanted):
    found, names = read_weights(model, checkpoint, model.weights), names_of(model)
    assert {names[key] for key in found} >= wanted.keys()
    for variable in model.weights:
        np.testing.assert_array_equal(found[id(variable)], wanted[names[id(variable)]])


# ------------------------------------------------------------------------------------------------ weights


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
        assert_reads(model, str(folder / name), wanted)

    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_a_model_a_list_and_names_are_checkpoints(trained):
    _, source, wanted = trained
    model = network()

    for checkpoint in (source, source.get_weights(), wanted):
        assert_reads(model, checkpoint, wanted)
    with pytest.raises(ValueError, match="a list of 10 arrays was wanted, but 2 arrays came"):
        read_weights(model, [1, 2], model.weights)
    with pytest.raises(ValueError, match=r"the model has no \['nothing'\]"):
        read_weights(model, {"nothing": X}, model.weights)
    less = {name: value for name, value in wanted.items() if not name.startswith("norm/moving")}
    with pytest.raises(ValueError, match="the checkpoint has no 'norm/moving_mean', which the model has"):
        read_weights(model, less, model.weights)


def test_a_state_brings_its_statistics_and_its_loss(trained):
    folder, source, _ = trained
    objective = gradvis.objective(network(), (X, Y))
    theta = objective.read(folder / "net.weights.h5")
    logits = source(X).numpy().astype(float)
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(12), Y])

    for name in ("model.keras", "ck", "exported"):
        assert objective.at(folder / name).measure(theta)["loss"] == pytest.approx(wanted, rel=1e-5)
    assert objective.measure(theta)["loss"] != pytest.approx(wanted, rel=1e-3)  # with the model's own statistics


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


class Pair(tf.Module):
    def __init__(self, scale):
        super().__init__()
        self.first, self.rest = tf.Variable([scale, 2.0]), [tf.Variable([[scale]])]


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


# ------------------------------------------------------------------------------------------------ parts, and NaN


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


def test_what_is_not_finite_is_refused_as_a_state_but_can_be_read_in_parts(trained):
    _, source, _ = trained
    model = network()
    for index, word in ((0, "conv/kernel"), (4, "norm/moving_mean")):
        weights = [value.copy() for value in source.get_weights()]
        weights[index].flat[1] = np.nan
        with pytest.raises(
            NotFiniteError, match=rf"finite weights were wanted, but in the checkpoint {word} holds NaN"
        ):
            read_weights(model, weights, model.weights)
        if index == 0:
            part = reader(model, model.trainable_variables, "float32", weights).read(slice(0, 3))
            assert np.isnan(part).tolist() == [False, True, False]


# ------------------------------------------------------------------------------------------------ save_checkpoint


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
    with pytest.raises(ValueError, match=r"writes .keras and .weights.h5 files of Keras models, but .*net.pt came"):
        gradvis.save_checkpoint(tmp_path / "net.pt", model)
    with pytest.raises(ValueError, match="only a .py file of the folder"):
        gradvis.save_checkpoint(path, model, "../net.py:objective")
    with pytest.raises(TypeError, match="numbers and strings may be stored beside a model"):
        gradvis.save_checkpoint(path, model, weights=X)
    with pytest.raises(TypeError, match="a keras.Model was wanted, but Pair came"):
        gradvis.save_checkpoint(path, Pair(1.0))
    monkeypatch.setattr("gradvis.backends.tf.saving._put", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gradvis.save_checkpoint(path, model)
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["net.keras"]


# ------------------------------------------------------------------------------------------------ networks


def test_the_kind_of_a_file_is_told_without_loading_it(trained):
    folder, *_ = trained
    kinds = {name: backend.program_kind(folder / name) for name in FORMS}
    assert {name for name, kind in kinds.items() if kind == "a Keras model"} == {
        "model.keras", "whole.h5", "folder", "named.keras",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == "a SavedModel"} == {"exported", "saved"}
    assert not any(kind for name, kind in kinds.items() if "ck" in name or "weights" in name)


@pytest.mark.parametrize("name", ["model.keras", "whole.h5", "folder"])
def test_a_whole_model_brings_its_compiled_loss(trained, name):
    folder, source, wanted = trained
    model = backend.load_program(folder / name, trust=False)
    for place, value in by_name(model).items():
        np.testing.assert_array_equal(value, wanted[place])
    objective = gradvis.objective(model, (X, Y))
    assert objective.measure(objective.parameters())["loss"] == pytest.approx(
        source.evaluate(X, Y, verbose=0)[0], rel=1e-5
    )
    bare = backend.load_program(folder / name, trust=False, compiled=False)
    assert getattr(bare, "loss", None) is None


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Models that Keras does not load by itself."""
    folder = tmp_path_factory.mktemp("odd")

    @keras.saving.register_keras_serializable()
    class Own(layers.Layer):
        pass

    def own(targets, outputs):
        return keras.ops.mean((targets - outputs) ** 2, axis=-1)

    ran = str(folder / "ran")
    code = layers.Lambda(lambda x: [open(ran, "w").close(), x][1], output_shape=(4,))
    for kind in ("keras", "h5"):
        keras.Sequential([keras.Input((4,)), code, layers.Dense(2)]).save(folder / f"code.{kind}")
        keras.Sequential([keras.Input((4,)), Own(), layers.Dense(2)]).save(folder / f"class.{kind}")
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        model.compile("sgd", own)
        model.save(folder / f"loss.{kind}")
    keras.saving.get_custom_objects().clear()
    (folder / "ran").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_code_in_a_file_runs_only_with_trust(odd, kind):
    path = odd / f"code.{kind}"
    with pytest.raises(ValueError, match=rf"loading .*code.{kind} can run code, for it is a Keras model with a Lambda"):
        backend.load_program(path, trust=False)
    assert not (odd / "ran").exists()
    backend.load_program(path, trust=True)(np.ones((1, 4)))
    assert (odd / "ran").exists()
    (odd / "ran").unlink()


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_classes_and_losses_that_keras_does_not_know_are_told(odd, kind):
    with pytest.raises(ValueError, match=r"Keras does not know (Custom>)?Own; give --objective FILE.py:NAME"):
        backend.load_program(odd / f"class.{kind}", trust=False)
    with pytest.raises(ValueError, match="does not know the loss or a metric that it was compiled with; give --loss"):
        backend.load_program(odd / f"loss.{kind}", trust=False)
    assert backend.load_program(odd / f"loss.{kind}", trust=False, compiled=False).count_params() == 10
    with pytest.raises(ValueError, match="--key chooses a state in a file of several, but"):
        backend.load_program(odd / f"loss.{kind}", trust=False, key="model")


# ------------------------------------------------------------------------------------------------ SavedModel


@pytest.mark.parametrize("name", ["exported", "saved"])
def test_a_saved_model_is_the_network_it_was_saved_from(trained, name):
    folder, source, _ = trained
    with pytest.raises(ValueError, match=rf"loading .*{name} can run code, for it is a SavedModel; .* --trust"):
        backend.load_program(folder / name, trust=False)
    with pytest.warns(gradvis.notes.Note, match="batch norm uses the stored statistics"):
        model = backend.load_program(folder / name, trust=True)
    np.testing.assert_allclose(model(X), source(X), rtol=1e-5, atol=1e-6)

    mine = gradvis.objective(model, (X, Y), "cross_entropy")
    theirs = gradvis.objective(source, (X, Y), "cross_entropy")
    here, there = ({"/".join(b.name.split("/")[-2:]): b for b in each.space} for each in (mine, theirs))
    assert here.keys() == there.keys()
    order = np.concatenate([np.arange(here[key].slice.start, here[key].slice.stop) for key in there])
    theta, vectors = theirs.parameters(), RNG.normal(size=(2, theirs.space.d)).astype("float32")
    moved = theta + 0.1 * vectors[0]

    def put(values):
        made = np.empty_like(values)
        made[..., order] = values
        return made

    np.testing.assert_array_equal(mine.parameters()[order], theta)
    assert mine.measure(put(moved))["loss"] == pytest.approx(theirs.measure(moved)["loss"], rel=1e-6)
    np.testing.assert_allclose(mine.gradient(put(moved))[order], theirs.gradient(moved), atol=1e-6)
    np.testing.assert_allclose(
        mine.hvp(put(moved), put(vectors))[:, order], theirs.hvp(moved, vectors), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(model(X), source(X), rtol=1e-5, atol=1e-6)  # nothing was written


def test_loops_and_several_inputs_of_a_saved_model_are_differentiated(tmp_path):
    words, extra = keras.Input((5,), name="words"), keras.Input((2,), name="extra")
    hidden = layers.LSTM(3)(layers.Embedding(7, 2)(words))
    source = keras.Model([words, extra], layers.Dense(3)(layers.Concatenate()([hidden, extra])))
    inputs = {"words": RNG.integers(0, 7, (4, 5)).astype("float32"), "extra": RNG.normal(size=(4, 2)).astype("float32")}
    targets = np.array([0, 1, 2, 0])
    named = keras.Model({"words": words, "extra": extra}, source.outputs[0])
    named.export(tmp_path / "loops", verbose=False)

    model = backend.load_program(tmp_path / "loops", trust=True)

    np.testing.assert_allclose(model(inputs), named(inputs), rtol=1e-5, atol=1e-6)
    mine, theirs = (gradvis.objective(each, (inputs, targets), "cross_entropy") for each in (model, named))
    ones = np.ones((1, theirs.space.d), "float32")  # the same in any order
    one, other = (o.hvp(o.parameters(), ones)[0] for o in (mine, theirs))
    assert np.abs(other).max() > 1e-3
    np.testing.assert_allclose(np.sort(one), np.sort(other), atol=1e-6)
    with pytest.raises(ValueError, match="the SavedModel takes extra, words, but words came; give a dict of inputs"):
        model({"words": inputs["words"]})
    with pytest.raises(ValueError, match=r"takes inputs of shape \(None, 2\), but \(4, 3\) came"):
        model({**inputs, "extra": np.ones((4, 3), "float32")})


class Callable(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable([[2.0], [3.0]], name="w")

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32)])
    def __call__(self, x):
        return x @ self.w


def test_a_module_with_a_traced_call_is_a_program_and_one_without_says_what_to_do(tmp_path):
    tf.saved_model.save(Callable(), tmp_path / "good")
    tf.saved_model.save(Pair(2.0), tmp_path / "bare")
    model = backend.load_program(tmp_path / "good", trust=True)
    np.testing.assert_array_equal(model(np.array([[1.0, 10.0]], "float32")), [[32.0]])
    with pytest.raises(ValueError, match="a function that gives outputs was wanted, but .*bare has none"):
        backend.load_program(tmp_path / "bare", trust=True)
    shutil.rmtree(tmp_path / "bare" / "variables")
    with pytest.raises(ValueError, match="bare, a SavedModel, could not be loaded"):
        backend.load_program(tmp_path / "bare", trust=True)
