"""Data in every form: the same samples, in order, once each, however they are cut, kept or read again."""

import doctest
import importlib
import itertools
from collections import namedtuple
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvis import backends
from gradvis.backends.given import each
from tests.contract.data_forms import (
    CUTS,
    FORMS,
    KINDS,
    LARGE,
    ONCE,
    PAIR,
    SAMPLES,
    X,
    Y,
    arrays_of,
    end_to_end,
    pieces_of,
)

FOLDER = Path(backends.__file__).parent
DOCUMENTED = [
    ".".join(("gradvis.backends", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in sorted(FOLDER.rglob("*.py"))
    if ">>>" in path.read_text()
]
STREAMED = [(kind, form) for kind, form in FORMS if form not in ONCE]
SUBSETS = [
    (kind, form, budget)
    for kind, form in FORMS
    for budget in (LARGE, 0)
    if budget
    or form in {"arrays", "tensors"}
    or (kind == "torch" and form in {"dataset", "loader", "shuffling loader"})
]


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def opened(kind, form, **options):
    """A form in batches of 8 samples, where it has none of its own."""
    return kind.open(kind.forms[form](), batch_size=8 if form in kind.sized else None, **options)


def samples_of(kind, batches, micro=None, part=(0, 1)):
    return end_to_end([batch for _, batch in kind.numbered(batches, micro, part)])


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_form_holds_the_same_samples_however_they_are_cut(name, form):
    kind = KINDS[name]
    batches = opened(kind, form)
    as_they_came = np.diff(CUTS).tolist() if form == "ragged" else [8, 8, 5]
    digest, lengths, nbytes = kind.told(batches)
    assert lengths == [len(batch[1]) for batch in kind.as_came(batches)] == as_they_came
    assert digest == kind.told(kind.open(PAIR))[0] != kind.told(kind.open((X, Y + 1)))[0]
    assert batches.about() == {"samples": SAMPLES}
    assert nbytes == X.nbytes + Y.nbytes
    for micro in (5, 30):
        numbers, pieces = zip(*kind.numbered(batches, micro), strict=True)
        assert list(numbers) == list(range(len(numbers)))
        assert max(len(piece[1]) for piece in pieces) <= micro
        same(end_to_end(pieces), PAIR)


@pytest.mark.parametrize(("name", "form"), STREAMED)
def test_what_does_not_fit_is_read_again_each_time(name, form):
    kind = KINDS[name]
    batches = opened(kind, form, budget=100)
    assert batches.kept is None
    digest, lengths, nbytes = kind.told(batches)
    assert digest == kind.told(kind.open(PAIR))[0]
    uncounted = name == "torch" and form in {"list", "tuple", "ragged"}  # only reading them all would tell
    assert batches.about() == {"samples": None if uncounted else SAMPLES}
    assert nbytes == kind.at_once(100, max(lengths) * (X[0].nbytes + Y[:1].nbytes))
    for micro in (None, 3, None):
        for _ in range(2):
            same(samples_of(kind, batches, micro), PAIR)


@pytest.mark.parametrize("budget", [LARGE, 0])
def test_shards_take_turns_and_make_up_the_whole(kind, budget):
    batches = kind.open(pieces_of(PAIR), budget=budget)
    shards = [kind.numbered(batches, 2, (at, 3)) for at in range(3)]
    whole = kind.numbered(batches, 2)
    assert [number for number, _ in shards[1]] == list(range(1, len(whole), 3))
    by_number = sorted(itertools.chain(*shards), key=lambda item: item[0])
    assert [arrays_of(batch[1]).tolist() for _, batch in by_number] == [
        arrays_of(batch[1]).tolist() for _, batch in whole
    ]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 4), st.sampled_from([*KINDS])
)
def test_ragged_batches_come_out_whole_and_in_order_however_they_are_cut_and_shared(lengths, micro, shards, name):
    kind, count = KINDS[name], sum(lengths)
    whole = np.arange(2.0 * count, dtype="float32").reshape(count, 2), np.arange(count)
    bounds = list(itertools.pairwise(itertools.accumulate(lengths, initial=0)))
    ragged = [tuple(part[i:j] for part in whole) for i, j in bounds]
    for batches in (kind.open(ragged), kind.open(ragged, budget=0)):
        assert kind.told(batches)[0] == kind.told(kind.open(whole))[0]
        assert [arrays_of(batch[1]).tolist() for batch in kind.as_came(batches)] == [[*range(i, j)] for i, j in bounds]
        same(samples_of(kind, batches, micro), whole)
        shared = [kind.numbered(batches, micro, (index, shards)) for index in range(shards)]
        found = [sample for _, batch in itertools.chain(*shared) for sample in arrays_of(batch[1]).tolist()]
        assert sorted(found) == list(range(count))


# ---------------------------------------------------------------------------------------------- nests

Two = namedtuple("Two", "left right")
NESTS = {
    "named tuple": (Two(X, X[:, :2]), Y),
    "dict": ({"a": X, "b": X[:, :2]}, Y),
    "tuple": ((X, X[:, :2]), Y),
    "list": ([X, X[:, :2]], Y),
    "named targets": (X, {"p": Y, "q": X}),
}


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("budget", [LARGE, 0])
def test_several_inputs_or_targets_are_counted_joined_and_cut_like_one(kind, nest, budget):
    data = NESTS[nest]
    whole, brought = kind.open(data, budget=budget, batch_size=8), kind.open(pieces_of(data), budget=budget)
    for batches in (whole, brought):
        assert (batches.kept is None) == (budget == 0)
        pieces = [(batch[0], batch[1]) for _, batch in kind.numbered(batches, 6)]
        assert {str(each(lambda _: 0, piece)) for piece in pieces} == {str(each(lambda _: 0, data))}
        same(end_to_end(pieces), end_to_end([data]))
        assert kind.told(batches)[1] == [8, 8, 5]
    assert kind.told(whole)[0] == kind.told(brought)[0]


def test_what_a_batch_loss_takes_is_never_cut_or_put_together(kind):
    items = [{"x": X[:4], "name": "a"}, {"x": X[4:], "name": "b"}]
    for budget in (LARGE, 0):
        batches = kind.open(items, budget=budget, pairs=False)
        found = [batch for _, batch in kind.numbered(batches, 2)]
        assert [batch["name"] for batch in found] == ["a", "b"]
        same(end_to_end([{"x": batch["x"]} for batch in found]), [X])


def test_batches_whose_lengths_differ_inside_stay_whole(kind):
    tokens = np.arange(12.0).reshape(4, 3), np.arange(12)
    assert [len(batch[1]) for _, batch in kind.numbered(kind.open([tokens, tokens]), 2)] == [12, 12]
    assert kind.open([tokens, tokens]).about() == {"samples": 8}


def test_batches_padded_to_their_own_length_stay_apart(kind):
    padded = kind.open([(np.ones((3, 4)), np.zeros(3)), (np.ones((3, 5)), np.zeros(3))])
    for micro, wanted in ((None, [(3, 4), (3, 5)]), (2, [(2, 4), (1, 4), (2, 5), (1, 5)])):
        assert [tuple(batch[0].shape) for _, batch in kind.numbered(padded, micro)] == wanted
    assert kind.told(padded)[1] == [3, 3]


def test_tables_of_pandas_are_arrays(kind):
    pandas = pytest.importorskip("pandas")
    same(samples_of(kind, kind.open((pandas.DataFrame(X), pandas.Series(Y)))), PAIR)


# ---------------------------------------------------------------------------------------------- kinds of numbers


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int8", "uint8", ">i4", "bool", "uint16"])
def test_every_kind_of_number_is_what_it_was(kind, dtype):
    array = np.arange(6).reshape(3, 2).astype(dtype)[::-1]
    found = samples_of(kind, kind.open((array, array[:, 0])))[0]
    assert found.dtype == (np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, array)


def test_numbers_of_16_bits_that_numpy_has_not_are_numbers(kind):
    rounded = X.astype(ml_dtypes.bfloat16).astype("float32")
    same(samples_of(kind, kind.open((kind.half(X), Y))), (rounded, Y))


@pytest.mark.parametrize("batch_size", [8, SAMPLES])
def test_what_is_kept_is_a_copy_and_lets_the_source_go(kind, batch_size):
    room = np.empty(X.nbytes + 64, "uint8")  # an array that lies as TensorFlow would have it, were it to share one
    aligned = room[-room.ctypes.data % 64 :][: X.nbytes].view("float32").reshape(X.shape)
    aligned[:] = X
    for data in (aligned, X.copy(), X.astype("float64"), Y.copy()):
        batches = kind.open((data, Y), batch_size=batch_size)
        wanted = data.astype("float32") if data.dtype.kind == "f" else data.copy()
        data[:] = 0
        same(samples_of(kind, batches), (wanted, Y))
        assert batches.source == ()


@pytest.mark.parametrize("form", ["arrays", "variables"])
def test_batches_that_share_one_buffer_are_told_apart(kind, form):
    """As many a loader has it, and a generator of one's own."""

    def batches():
        room = np.empty(8 * X[0].nbytes + 64, "uint8")
        aligned = room[-room.ctypes.data % 64 :][: 8 * X[0].nbytes].view("float32").reshape(8, 6)
        for x, y in pieces_of(PAIR):
            aligned[: len(x)] = x
            whole = aligned if form == "arrays" else kind.shared(aligned)
            yield whole if len(x) == 8 else whole[: len(x)], y

    same(samples_of(kind, kind.open(batches())), PAIR)


# ---------------------------------------------------------------------------------------------- subsets


@pytest.mark.parametrize(("name", "form", "budget"), SUBSETS)
def test_a_subset_is_the_same_samples_in_every_form_kept_or_read_again(name, form, budget):
    kind = KINDS[name]
    chosen = np.sort(np.random.default_rng(0).choice(SAMPLES, 10, replace=False))
    batches = opened(kind, form, budget=budget, samples=10)
    assert (batches.kept is None) == (budget == 0)
    for micro in (None, 3):
        same(samples_of(kind, batches, micro), (X[chosen], Y[chosen]))
    assert batches.about() == {"samples": 10, "subset": {"of": SAMPLES, "seed": 0}}
    assert kind.told(batches)[0] == kind.told(kind.open((X[chosen], Y[chosen])))[0]


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("samples", [0, -1, SAMPLES + 1])
def test_more_samples_than_there_are_or_none_are_refused(name, form, samples):
    with pytest.raises(
        ValueError, match=f"samples must be from 1 to {SAMPLES}, as many as the data has, but {samples}"
    ):
        opened(KINDS[name], form, samples=samples)


def test_the_samples_of_a_subset_are_these_and_never_others(kind):
    batches = kind.open((np.arange(100.0)[:, None], np.arange(100)), samples=8)
    assert samples_of(kind, batches)[1].tolist() == [1, 4, 7, 25, 29, 48, 59, 79]


def test_a_subset_of_what_has_no_samples_is_refused(kind):
    with pytest.raises(ValueError, match=r"samples=N wants batches that are \(inputs, targets\) of one length, but"):
        kind.open([(np.ones((4, 3)), np.ones(12))], samples=2)
    with pytest.raises(ValueError, match="samples=N is for arrays, data files, .* more than the 1 bytes"):
        kind.open(pieces_of(PAIR), budget=1, samples=2)


# ---------------------------------------------------------------------------------------------- words


def test_a_description_names_kinds_and_shapes(kind):
    value = {"ids": kind.tensor(np.ones((2, 3), "int64")), "more": [np.ones(2), "text"]}
    assert kind.describe(value) == "{ids: int64 (2, 3), more: (float64 (2,), str)}"


@pytest.mark.parametrize("module", DOCUMENTED)
def test_the_examples_in_the_documentation_are_true(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert (failed, attempted > 0) == (0, True)
