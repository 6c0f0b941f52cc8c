"""What only the objective of the Keras backend has to do; the laws that hold for every backend are in tests/contract.

Data, losses, layers, norms, products, files and recordings have test files of their own.
"""

from __future__ import annotations

import gc
import random
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.notes import Note

layers = keras.layers
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(10, 4)).astype("float32"), RNG.integers(0, 3, 10)


def dense(outputs=3, dtype=None, **options):
    wide = dtype if isinstance(dtype, str) else None
    return keras.Sequential([keras.Input((4,), dtype=wide), layers.Dense(outputs, name="last", dtype=dtype, **options)])


def objective(model, data=(X, Y), loss="cross_entropy", **options):
    return gradvis.objective(model, data, loss, **options)


def measured(model, data=(X, Y), loss="cross_entropy", **options):
    made = objective(model, data, loss, **options)
    return made.measure(made.parameters())


def losses(theta, x=X, y=Y):
    """Cross entropies of a single Dense layer of three outputs by NumPy, in float64."""
    theta = theta.astype(float)
    z = x.astype(float) @ theta[:12].reshape(4, 3) + theta[12:]
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]


# ---------------------------------------------------------------------- options


def test_a_model_that_was_never_called_is_refused():
    with pytest.raises(ValueError, match="call it on one batch"):
        measured(keras.Sequential([layers.Dense(3)]))


def test_threads_that_come_too_late_are_told_of():
    runs = objective(dense()).how["threads"]

    with pytest.warns(Note, match=rf"before threads={runs + 1} came; call tf.config.threading"):
        made = objective(dense(), threads=runs + 1)

    assert made.how["threads"] == runs


def test_what_a_sample_costs_is_read_off_the_graph():
    wide = objective(keras.Sequential([keras.Input((4,)), layers.Dense(5000), layers.Dense(3)]))

    assert 40_000 <= wide._graphs.facts.sample_bytes <= 60_000  # 5,000 sums and as many with the bias, of 4 bytes


# ---------------------------------------------------------------------- other dtypes


def rich(dtype):
    """Layers that treat their dtype in different ways."""
    wide = {"dtype": dtype}
    inputs = keras.Input((4,), **wide)
    x = layers.BatchNormalization(**wide)(layers.LayerNormalization(**wide)(layers.Dense(8, "tanh", **wide)(inputs)))
    x = layers.SimpleRNN(3, unroll=True, **wide)(layers.Reshape((2, 4), **wide)(x))
    return keras.Model(inputs, layers.Dense(3, **wide)(x))


def test_a_model_of_single_precision_is_computed_in_double_as_if_it_had_been_built_so():
    narrow, wide = rich("float32"), rich("float64")
    wide.set_weights(narrow.get_weights())
    policies = [layer.dtype_policy.name for layer in narrow._flatten_layers()]
    data = RNG.normal(size=(10, 4)), Y

    found, wanted, single = (
        objective(model, data, dtype=dtype) for model, dtype in ((narrow, "float64"), (wide, None), (narrow, None))
    )

    theta = wanted.parameters()
    assert found.about["dtype"] == "float64"
    assert found.parameters().dtype == np.float64
    assert found.measure(theta) == wanted.measure(theta)
    assert found.measure(theta)["loss"] != single.measure(theta)["loss"]
    assert found.gradient(theta).tobytes() == wanted.gradient(theta).tobytes()
    assert [layer.dtype_policy.name for layer in narrow._flatten_layers()] == policies
    assert narrow.inputs[0].dtype == "float32"
    assert objective(wide, data, dtype="float32").measure(theta) == pytest.approx(single.measure(theta), rel=1e-5)


def test_a_layer_that_cannot_follow_is_refused_and_one_that_hides_it_is_told_of():
    class Stubborn(layers.Layer):
        def call(self, x):
            return x * tf.constant(2.0)

    class Sly(layers.Layer):
        def call(self, x):
            return tf.cast(tf.cast(x, tf.float32) * 2, x.dtype)

    model = keras.Sequential([keras.Input((4,)), Stubborn(), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"not all of these can \(\w+\); build it in that dtype: .*_policy\('float64'"):
        objective(model, dtype="float64")
    assert measured(model)["loss"] > 0
    with pytest.warns(Note, match="computes in float32 whatever the dtype"):
        objective(keras.Sequential([keras.Input((4,)), Sly(), layers.Dense(3)]), dtype="float64")


def test_a_compiled_forward_pass_gives_the_same_numbers_or_none_is_taken():
    model = dense()
    plain, compiled = objective(model), objective(model, compile=True)
    theta = plain.parameters()

    assert (plain.about["compile"], compiled.about["compile"]) == (False, True)
    assert (plain.how["points"], compiled.how["points"]) == (32, 1)
    assert compiled.measure(theta) == pytest.approx(plain.measure(theta), rel=1e-5)

    class Unknown(layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(lambda y: y, [x], x.dtype), x.shape)

    with pytest.warns(Note, match="is not compiled, as XLA raises"):
        made = objective(keras.Sequential([keras.Input((4,)), Unknown(), layers.Dense(3)]), compile=True)
    assert made.about["compile"] is False
    assert made.measure(made.parameters())["loss"] > 0


# ---------------------------------------------------------------------- regularisation


def test_regularisation_is_a_column_of_its_own_and_the_sum_is_what_evaluate_says():
    model = dense(kernel_regularizer=keras.regularizers.L2(0.3), activity_regularizer=keras.regularizers.L1(0.01))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made = gradvis.objective(model, (X, Y), batch_size=4)
    theta = made.parameters()

    found = made.measure(theta)

    kernel, outputs = theta[:12].astype(float), X @ theta[:12].reshape(4, 3) + theta[12:]
    assert made.metrics == ("loss", "loss_stderr", "regularisation")
    assert found["loss"] == pytest.approx(losses(theta).mean(), rel=1e-5)
    added = 0.3 * (kernel**2).sum() + 0.01 * np.abs(outputs).sum() / 10
    assert found["regularisation"] == pytest.approx(added, rel=1e-5)
    wanted = model.evaluate(X, Y, batch_size=4, verbose=0)
    assert found["loss"] + found["regularisation"] == pytest.approx(wanted, rel=1e-5)
    assert made.about["metrics"] == ["loss", "regularisation"]


def test_what_is_added_in_a_call_is_of_whole_batches_and_leaves_no_trace():
    class Adds(layers.Layer):
        def call(self, x):
            self.last = x
            self.add_loss(keras.ops.max(x))
            return x

    adds = Adds()
    model = keras.Sequential([keras.Input((4,)), adds, layers.Dense(3)])
    model(X)
    before = dict(vars(adds)), set(adds._loss_ids), list(adds._losses)

    found = measured(model, batch_size=4, micro_batch=2)

    wanted = (4 * X[:4].max() + 4 * X[4:8].max() + 2 * X[8:].max()) / 10
    assert found["regularisation"] == pytest.approx(wanted, rel=1e-6)
    assert all(vars(adds)[name] is value for name, value in before[0].items())
    assert (set(adds._loss_ids), list(adds._losses)) == before[1:]


# ---------------------------------------------------------------------- how it is computed


def test_each_graph_is_traced_once_and_no_warning_comes_of_many_objectives():
    traced = []

    def loss(outputs, targets):
        traced.append(outputs.shape)
        return tf.reduce_sum(outputs**2, 1)

    made = objective(dense(), loss=loss, micro_batch=4)
    plane = gradvis.random_plane(made)
    made.evaluate(plane, np.zeros((2, 2)))
    made.gradient(made.parameters()), made.shard(0, 2), made.measure(made.parameters())
    seen = len(traced)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1, 3, 5):
            made.evaluate(plane, np.ones((size, 2)))
            made.gradient(made.parameters())
            made.on(plane).stored().shard(0, 2).gradient(made.parameters())
            made.at(made._model.get_weights()).measure(made.parameters())
    assert len(traced) == seen


def test_what_an_objective_held_is_given_back():
    made = objective(dense())
    made.measure(made.parameters()), made.gradient(made.parameters())
    graphs = weakref.ref(made._graphs)

    del made
    gc.collect()

    assert graphs() is None


# ---------------------------------------------------------------------- randomness


class Noisy(keras.Model):
    """Draws at evaluation too, from a generator of its own, and careless Python code while it is traced."""

    def __init__(self):
        super().__init__()
        self.last, self.seeds = layers.Dense(3), keras.random.SeedGenerator(random.randrange(1000))

    def call(self, x):
        random.random()
        np.random.random()
        return self.last(x) + keras.random.normal((x.shape[0], 3), seed=self.seeds)


def test_a_model_that_draws_is_seeded_per_batch_and_draws_nothing_of_the_users():
    first, second = Noisy(), Noisy()
    first(X), second(X)
    second.last.set_weights(first.last.get_weights())
    drawn = random.getstate(), str(np.random.get_state())
    one, two = (objective(model, batch_size=5, micro_batch=5) for model in (first, second))
    state = first.seeds.state.numpy()
    theta = one.parameters()
    before = one.measure(theta)
    one.gradient(theta), two.measure(theta)
    assert drawn == (random.getstate(), str(np.random.get_state()))

    first(X)  # the user's own draw moves the user's own generator, and nothing else

    assert one.measure(theta) == before == two.measure(theta)
    assert one.fingerprint() == two.fingerprint()
    assert not np.array_equal(first.seeds.state.numpy(), state)


def test_a_model_that_draws_anew_each_time_is_refused():
    class Unseeded(layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    with pytest.raises(ValueError, match=r"but this one draws anew \(RandomStandardNormal\); .*SeedGenerator"):
        objective(keras.Sequential([keras.Input((4,)), Unseeded(), layers.Dense(3)]))


def test_the_next_random_numbers_are_those_that_would_have_come():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dropout(0.5)])

    def draw():
        return [
            random.random(), np.random.random(), float(tf.random.uniform(())),
            float(keras.random.uniform(())), float(tf.random.get_global_generator().uniform(())),
        ]  # fmt: skip

    keras.utils.set_random_seed(11)
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))
    wanted = [draw(), draw()]
    keras.utils.set_random_seed(11)
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))

    found = [draw()]
    made = objective(model)
    theta = made.parameters()
    made.measure(theta), made.gradient(theta), made.hvp(theta, theta[None])

    assert [*found, draw()] == wanted
