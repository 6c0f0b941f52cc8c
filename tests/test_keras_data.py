"""Data as Keras has it: datasets, sample weights, nests with weights, texts, and its own files."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

import gradvis
from gradvis.backends.tf.data import load
from tests.contract.data_forms import LARGE, PAIR, SAMPLES, Numbered, X, Y, dataset, end_to_end, forever, pieces_of

W = np.random.default_rng(4).uniform(size=SAMPLES)


def open_(data, budget=LARGE, batch_size=None, **options):
    return load(data, "float32", batch_size, budget, **options)


def numbers(batches):
    """All samples in order, end to end."""
    return end_to_end([batch for _, batch in batches])


# ---------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "data",
    [
        (X, Y, W),
        [(X[:9], Y[:9], W[:9]), (X[9:], Y[9:], W[9:])],
        tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(8),
        Numbered([(X, Y, W)]),
    ],
    ids=["arrays", "list", "dataset", "PyDataset"],
)
def test_sample_weights_come_with_their_samples(data):
    batches = open_(data).recut(4)
    assert all(map(np.array_equal, numbers(batches), (X, Y, W.astype("float32"))))
    assert batches.digest == open_((X, Y, W)).digest != open_(PAIR).digest
    assert open_((X, Y, (W > 0.5))).kept[0][2].dtype == tf.float32
    assert open_(PAIR).kept[0][2] is None


NESTS = {
    "lists": ([X, X[:, :2]], [Y, X]),
    "weights": (X, {"p": Y, "q": X}, {"p": W, "q": W}),
}


@pytest.mark.parametrize("kind", NESTS)
@pytest.mark.parametrize("budget", [LARGE, 0])
def test_several_targets_and_their_weights_are_cut_alike_and_keep_their_form(kind, budget):
    data = NESTS[kind]
    batches, brought = open_(data, budget=budget, batch_size=8), open_(pieces_of(data), budget=budget)
    for found in (batches, brought):
        pieces = [batch[: len(data)] for _, batch in found.recut(6)]
        for piece in pieces:
            tf.nest.assert_same_structure(piece, data)
        assert all(map(np.array_equal, end_to_end(pieces), (each.astype("float32") if each is W else each
                                                            for each in tf.nest.flatten(data))))  # fmt: skip
    assert batches.digest == brought.digest


def test_a_subset_of_arrays_may_be_streamed_and_weights_go_with_it():
    chosen = np.sort(np.random.default_rng(0).choice(SAMPLES, 10, replace=False))
    for budget in (LARGE, 0):
        batches = open_((X, Y, W), budget=budget, batch_size=4, samples=10)
        np.testing.assert_array_equal(numbers(batches)[2], W.astype("float32")[chosen])


# ---------------------------------------------------------------------------------------------- datasets


def of_generator(make):
    kinds = tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None,), tf.int64)
    return tf.data.Dataset.from_generator(make, output_signature=kinds)


def test_a_dataset_of_unknown_length_ends_or_is_refused():
    with pytest.raises(ValueError, match="gives its first batch again and seems to go round for ever"):
        open_(of_generator(forever))
    ends = of_generator(lambda: pieces_of(PAIR))
    with pytest.raises(ValueError, match=r"Dataset does not; add .apply\(tf.data.experimental.assert_cardinality"):
        open_(ends, budget=10)
    told = ends.apply(tf.data.experimental.assert_cardinality(3))
    assert all(map(np.array_equal, numbers(open_(told, budget=10)), PAIR))
    assert open_(ends).samples == SAMPLES


def test_a_subset_of_a_dataset_that_does_not_fit_is_taken_in_the_dataset():
    with pytest.raises(ValueError, match=r"more than the 1 bytes .* came; choose them in the data: dataset.take"):
        open_(dataset(), budget=1, samples=2)


@pytest.mark.parametrize("data", [pieces_of(PAIR), dataset(), Numbered(pieces_of(PAIR))])
def test_the_batch_size_of_batches_is_theirs(data):
    with pytest.raises(ValueError, match="brings its own batches; leave it out, or give micro_batch"):
        open_(data, batch_size=4)


def test_a_shuffle_that_is_the_same_each_time_is_data():
    fixed = dataset().unbatch().shuffle(SAMPLES, seed=1, reshuffle_each_iteration=False).batch(8)
    assert sorted(numbers(open_(fixed))[1].tolist()) == sorted(Y.tolist())


def test_data_that_changes_later_is_seen_when_it_is_read_again():
    made = pieces_of(PAIR)
    batches = open_(made, budget=0)
    made[1] = (made[1][0] + 1, made[1][1])
    with pytest.raises(ValueError, match="batch 1 came out different when it was read again"):
        numbers(batches)
    made[1:] = []
    with pytest.raises(ValueError, match="3 batches became 1 when it was read again"):
        numbers(batches)
    made[:] = pieces_of(PAIR) * 2
    with pytest.raises(ValueError, match="batch 3 came out different"):
        numbers(batches)


# ---------------------------------------------------------------------------------------------- kinds of numbers


def test_texts_are_inputs():
    texts = np.array(["an apple", "two pears", "apple"] * 7)
    forms = [(texts, Y), (texts.astype(object), Y), (tf.constant(texts), Y), dataset(8, (texts, Y))]
    assert len({open_(form).digest for form in forms}) == 1
    assert open_(forms[0]).digest != open_((texts[::-1], Y)).digest
    read = keras.layers.TextVectorization(output_mode="multi_hot", vocabulary=["apple", "pears"])
    model = keras.Sequential([keras.Input((), dtype="string"), read, keras.layers.Dense(4)])
    objective = gradvis.objective(model, (texts, Y), "cross_entropy", batch_size=8)
    logits = model(tf.constant(texts)).numpy().astype(float)
    wanted = (np.log(np.exp(logits).sum(1)) - logits[range(SAMPLES), Y]).mean()
    assert objective.measure(objective.parameters())["loss"] == pytest.approx(wanted, rel=1e-6)


def test_a_sparse_tensor_is_made_dense():
    found = open_([(tf.sparse.from_dense(X), Y)])
    np.testing.assert_array_equal(numbers(found)[0], X)


def test_half_numbers_of_safetensors_are_read(tmp_path):
    half = X.astype(ml_dtypes.bfloat16)
    save_file({"inputs": half, "targets": Y.astype("uint8")}, tmp_path / "half.safetensors")
    found = numbers(open_(tmp_path / "half.safetensors"))
    np.testing.assert_array_equal(found[0], half.astype("float32"))
    np.testing.assert_array_equal(found[1], Y)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shape.safetensors", "does not hold as many numbers under inputs as its header says; write it again"),
        ("kind.safetensors", "holds F4X numbers under inputs; save floats or integers"),
        ("long.safetensors", "is cut short or damaged; write it again"),
        ("data.pt", r"data.pt is read by torch, which takes no part in a TensorFlow job; write numpy.savez\('data"),
    ],
)
def test_a_file_that_is_read_without_its_own_library_is_looked_at_first(tmp_path, name, words):
    save_file({"inputs": X, "targets": Y}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    contents = {
        "shape.safetensors": whole.replace(b"[21,6]", b"[22,6]"),
        "kind.safetensors": whole.replace(b'"F32"', b'"F4X"'),
        "long.safetensors": b"\xff" * 40,
        "data.pt": b"",
    }
    (tmp_path / name).write_bytes(contents[name])
    with pytest.raises(ValueError, match=words) as error:
        open_(tmp_path / name)
    assert "\n" not in str(error.value)
