"""Networks that come as files of Keras and TensorFlow: whole models and SavedModels; no code runs without trust."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends import tf as backend
from gradvis.backends.tf.checkpoints import read_weights
from tests.keras_files import FORMS, RNG, Pair, X, Y, by_name, network, written

layers = keras.layers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return written(tmp_path_factory.getbasetemp())


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


# --- SavedModel ------------------------------------------------------------------------------------------------------


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


@pytest.mark.filterwarnings("ignore:.*batch norm uses the stored statistics")
def test_weights_of_one_saved_model_go_into_another_or_one_line_says_what_would(trained, tmp_path):
    folder, *_ = trained
    other = network()
    for number, variable in enumerate(other.weights):
        variable.assign(RNG.uniform(0.5, 1.5 + number, variable.shape))
    other.export(tmp_path / "other", verbose=False)
    network(width=5).export(tmp_path / "wider", verbose=False)
    wanted = gradvis.objective(other, (X, Y), "cross_entropy")
    wanted = wanted.measure(wanted.parameters())

    mine = gradvis.objective(backend.load_program(folder / "exported", trust=True), (X, Y), "cross_entropy")
    before = mine.measure(mine.parameters())
    for checkpoint in (tmp_path / "other", other, backend.load_program(tmp_path / "other", trust=True)):
        moved = mine.at(checkpoint)
        assert moved.measure(moved.parameters()) == pytest.approx(wanted, rel=1e-5)  # with its own statistics
        assert moved.measure(mine.read(checkpoint)) == moved.measure(moved.parameters())
    assert mine.measure(mine.parameters()) == before
    for form in ("saved", "ck", "net.weights.h5", "model.keras"):
        with pytest.raises(ValueError, match=rf"no layers to place the weights of .*{form} by; save both by model.exp"):
            mine.read(folder / form)
    with pytest.raises(ValueError, match="wider does not fit the model: it was exported with 10 variables of other"):
        mine.read(tmp_path / "wider")
    bare = backend.load_program(folder / "saved", trust=True)  # TensorFlow alone lists no variables
    for model, checkpoint in ((bare, folder / "exported"), (bare, other), (other, bare)):
        with pytest.raises(ValueError, match="no layers to place the weights of .* by; save both by model.export"):
            read_weights(model, checkpoint, [])


class Backwards(keras.Model):
    """Its layers, all of one shape and named by Keras, are used in another order than they are made."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (layers.Dense(2) for _ in range(3))

    def call(self, inputs):
        return self.one(keras.ops.tanh(self.three(self.two(inputs))))


def test_weights_of_a_saved_model_go_where_they_belong_whatever_the_order_of_use(tmp_path):
    x, made = RNG.normal(size=(12, 2)).astype("float32"), [Backwards(), Backwards()]
    for place, model in enumerate(made):
        model(x)
        model.set_weights([RNG.normal(size=value.shape) for value in model.get_weights()])
        model.export(tmp_path / str(place), verbose=False)
    program = backend.load_program(tmp_path / "0", trust=True)
    mine, theirs = (gradvis.objective(each, (x, np.zeros((12, 2))), "mse") for each in (program, made[1]))

    wanted = theirs.measure(theirs.parameters())["loss"]
    for checkpoint in (tmp_path / "1", made[1]):
        assert mine.measure(mine.read(checkpoint))["loss"] == pytest.approx(wanted, rel=1e-6)


def test_loops_and_several_inputs_of_a_saved_model_are_differentiated(tmp_path):
    words, extra = keras.Input((5,), name="words"), keras.Input((2,), name="extra")
    hidden = layers.SimpleRNN(3)(layers.Embedding(7, 2)(words))
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
