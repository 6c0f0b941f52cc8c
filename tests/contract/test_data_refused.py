"""What is no data, changes, or never ends is refused in one line, by every framework."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.utils.data import Dataset, TensorDataset

import gradvis
from tests.contract.data_forms import (
    CHANGING,
    KINDS,
    LARGE,
    PAIR,
    SAMPLES,
    Again,
    Long,
    Numbered,
    X,
    Y,
    arrays_of,
    dataset,
    forever,
    pieces_of,
    seeded,
)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


class Endless(keras.utils.PyDataset):
    def __getitem__(self, index):
        return pieces_of(PAIR)[0]


class Unsaid(Dataset):
    def __getitem__(self, index):
        return torch.zeros(1), 0


EVERYWHERE = [
    ((np.array([None, {}]), Y[:2]), ValueError, "numbers were wanted, but an array of dtype object came"),
    ((np.array([b"a", {}], object), Y[:2]), ValueError, "numbers were wanted, but an array of dtype object came"),
    ((np.zeros(3, "datetime64[s]"), Y[:3]), ValueError, r"an array of dtype datetime64\[s\] came; make it floats"),
    ((X.astype("complex64"), Y), ValueError, "dense real numbers were wanted, but complex64 came"),
    ([(X.astype(complex), Y)], ValueError, "dense real numbers were wanted, but complex128 came"),
    ([([[1.0, 2.0]], [0])], ValueError, r"tensors or arrays were wanted as inputs and targets, but \(\(\(float, float"),
    ([], ValueError, "data with at least one batch was wanted"),
    ([(X[:0], Y[:0])], ValueError, "data with at least one batch was wanted"),
    ((X[:0], Y[:0]), ValueError, "at least 1, were wanted, but 0 and 0 came"),
    ((X, Y[:3]), ValueError, "inputs and targets of one length, at least 1, were wanted, but 21 and 3 came"),
    (({"a": X, "b": X[:3]}, Y), ValueError, "but 3 or 21 and 21 came"),
    ((X, np.float32(1)), ValueError, "but 21 and 0 came"),
    (3, TypeError, "data must be a pair of arrays, .* or batches, but int came; the path of a data file does too"),
    (X, TypeError, "data must be .*, but ndarray came"),
    ({"x": X}, TypeError, "data must be .*, but dict came"),
    (itertools.cycle(pieces_of(PAIR)), ValueError, "itertools.cycle never does; pass what goes round in it"),
    (itertools.count(), ValueError, "data that ends was wanted, but itertools.count never does"),
    (itertools.repeat(pieces_of(PAIR)[0]), ValueError, "itertools.repeat never does"),
]
OWN = [
    (
        "torch",
        (np.array(["a", "b"]), Y[:2]),
        ValueError,
        "an array of dtype <U1 came; make it floats or integers first",
    ),
    ("torch", [(torch.tensor(X).to_sparse(), torch.tensor(Y))], ValueError, "real numbers were wanted, but sparse_coo"),
    ("torch", Unsaid(), TypeError, "a dataset that says how long it is was wanted, but Unsaid has no __len__"),
    (
        "keras",
        [(tf.ragged.constant([[1.0], [1.0, 2.0]]), Y[:2])],
        ValueError,
        r"of shape \(2, None\) came; pad it with",
    ),
    ("keras", (X, Y, Y[:3]), ValueError, "inputs, targets and sample weights of one length, .* 21 and 21 and 3 came"),
    ("keras", [X, X], ValueError, r"each batch must be \(inputs, targets\), or .* but float32 \(21, 6\) came"),
    ("keras", [(X, Y, Y, Y)], ValueError, "each batch must be"),
    ("keras", [{"x": X}], ValueError, r"but \{x: float32 \(21, 6\)\} came"),
    ("keras", tf.data.Dataset.from_tensor_slices(PAIR), ValueError, r"a single one came, .*; add .batch\(128\) to the"),
    ("keras", dataset().repeat(), ValueError, "a finite dataset was wanted, but this one never ends; leave out .repe"),
    ("keras", Endless(), ValueError, "data that says how long it is was wanted, but Endless has no __len__"),
    (
        "keras",
        Numbered,
        TypeError,
        "data must be a pair of arrays, a tf.data.Dataset, a PyDataset or batches, but type",
    ),
]
REFUSED = [(name, *each) for name in KINDS for each in EVERYWHERE] + OWN


@pytest.mark.parametrize(("name", "data", "error", "words"), REFUSED)
def test_what_is_no_data_is_refused_in_one_line(name, data, error, words):
    with pytest.raises(error, match=words) as raised:
        KINDS[name].open(data)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------------- twice the same


@pytest.mark.parametrize(("name", "form"), CHANGING)
@pytest.mark.parametrize("budget", [LARGE, 0])
def test_data_that_changes_from_reading_to_reading_is_refused(name, form, budget):
    with pytest.raises(
        ValueError, match="its first batch came out different .* switch random transforms and shuffling"
    ):
        KINDS[name].open(KINDS[name].changing[form](), budget=budget)


@pytest.mark.parametrize("budget", [LARGE, 0])
def test_batches_that_are_drawn_anew_are_refused(kind, budget):
    draw = np.random.default_rng(1)
    for batches in (
        Long(lambda: [(draw.normal(size=(4, 6)), np.zeros(4)) for _ in range(3)]),
        Long(lambda: [pieces_of(PAIR, 7)[at] for at in draw.permuted([[0, 1, 2], [1, 2, 0]], axis=0)[0]]),
    ):
        with pytest.raises(ValueError, match="its first batch came out different when it was read again"):
            often(kind, batches, budget)


def often(kind, batches, budget):
    """A shuffle may well begin with the same batch again."""
    for _ in range(20):
        kind.open(batches, budget=budget)


def test_data_with_nans_and_objects_is_the_same_when_it_is(kind):
    made = []

    def batches():
        made.append(object())
        return [(np.full((4, 2), np.nan), made[-1])]

    ((_, batch),) = kind.numbered(kind.open(Again(batches), pairs=False))
    assert np.isnan(arrays_of(batch)[0]).all()
    assert len(made) == 2


# ---------------------------------------------------------------------------------------------- without an end


def test_what_goes_round_is_refused(kind):
    for endless in (forever(), Again(forever)):
        with pytest.raises(ValueError, match="gives its first batch again and seems to go round for ever"):
            kind.open(endless)


def test_a_batch_may_come_again_where_an_end_is_known(kind):
    batch = pieces_of(PAIR)[0]
    assert kind.open([batch] * 3).about() == {"samples": 24}
    assert kind.open(itertools.repeat(batch, 1)).about() == {"samples": 8}


def test_what_neither_fits_nor_says_how_long_it_is_is_refused(kind):
    with pytest.raises(
        ValueError, match="larger than the 10000 bytes .* must say how long it is, but Again does not; giv"
    ):
        kind.open(Again(seeded), budget=10_000)
    with pytest.raises(ValueError, match="an iterator can be read only once, and this one gave more than the 10000"):
        kind.open(seeded(), budget=10_000)


def test_more_batches_than_the_length_says_are_refused(kind):
    for budget in (LARGE, 0):
        with pytest.raises(ValueError, match="Long gives more than the 3 batches of its __len__"):
            kind.numbered(kind.open(Long(lambda: pieces_of(PAIR) * 2), budget=budget))


# ---------------------------------------------------------------------------------------------- targets


def network(name):
    if name == "torch":
        return torch.nn.Linear(6, 4)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])


SOURCES = {
    "arrays": lambda x, y: (x, y),
    "list": lambda x, y: pieces_of((x, y), 5),
    "iterable": lambda x, y: Long(lambda: pieces_of((x, y), 7)),
    "torch dataset": lambda x, y: TensorDataset(torch.tensor(x), torch.tensor(y)),
    "keras dataset": lambda x, y: dataset(5, (x, y)),
}
SHOWN = [
    (name, form, budget)
    for name in KINDS
    for form in SOURCES
    for budget in (None, 0)
    if form == "list" or (budget == 0 and (form.startswith(name) or not form.endswith("dataset")))
]


@pytest.mark.parametrize(("name", "form", "budget"), SHOWN)
def test_a_class_that_the_model_has_not_is_refused_in_whichever_batch_it_is(name, form, budget):
    model, wrong = network(name), Y.copy()
    wrong[SAMPLES - 1] = 4

    def measured(classes):
        size = {"batch_size": 5} if form in {"arrays", "torch dataset"} else {}
        data = SOURCES[form](X, classes)
        objective = gradvis.objective(model, data, "cross_entropy", micro_batch=5, data_budget=budget, **size)
        assert objective.streamed == (budget == 0)
        return objective.measure(objective.parameters())

    assert form != "list" or np.isfinite(measured(Y)["loss"])
    with pytest.raises(
        ValueError, match="wants classes 0 to 3, as many as the model has outputs, but .* hold 4"
    ) as error:
        measured(wrong)
    assert "\n" not in str(error.value)
