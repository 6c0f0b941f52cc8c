"""Data for Keras models in every form: the same samples, in order, once each; what is no data is refused."""

import doctest
import itertools
import warnings

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

import gradvis
from gradvis.backends import given as given_module
from gradvis.backends.tf import batch as batch_module
from gradvis.backends.tf import data as data_module
from gradvis.backends.tf.batch import describe
from gradvis.backends.tf.data import load
from gradvis.backends.tf.files import read_data
from gradvis.notes import Note

SAMPLES, LARGE = 21, 1 << 30
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(SAMPLES, 6)).astype("float32"), RNG.integers(0, 4, SAMPLES)
W = RNG.uniform(size=SAMPLES)
PAIR = X, Y


def open_(data, budget=LARGE, batch_size=None, **options):
    return load(data, "float32", batch_size, budget, **options)


def numbers(batches):
    """All samples in order, end to end."""
    pieces = [batch for _, batch in batches]
    return tuple(np.concatenate([piece[part].numpy() for piece in pieces]) for part in (0, 1))


def lengths(batches):
    return [len(batch[1]) for _, batch in batches]


def batches_of(size=8, pair=PAIR):
    return [tuple(part[i : i + size] for part in pair) for i in range(0, SAMPLES, size)]


class Numbered(keras.utils.PyDataset):
    """Its epochs never end, for nobody trains on it."""

    def __init__(self, batches, **options):
        super().__init__(**options)
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]

    def on_epoch_end(self):
        raise AssertionError("an epoch ended")

    def on_epoch_begin(self):
        raise AssertionError("an epoch began")


class Again:
    """Batches made anew each time, without a length unless told."""

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())


class Long(Again):
    def __len__(self):
        return 3


def dataset(size=8, pair=PAIR):
    return tf.data.Dataset.from_tensor_slices(pair).batch(size)


FORMS = {
    "arrays": lambda: PAIR,
    "tensors": lambda: tuple(map(tf.constant, PAIR)),
    "dataset": dataset,
    "PyDataset": lambda: Numbered(batches_of(), workers=3, use_multiprocessing=False),
    "list": batches_of,
    "tuple": lambda: tuple(batches_of()),
    "generator": lambda: iter(batches_of()),
    "iterable": lambda: Again(batches_of),
    "ragged": lambda: [tuple(part[i:j] for part in PAIR) for i, j in itertools.pairwise([0, 1, 9, 10, SAMPLES])],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_samples_however_they_are_cut(form):
    batches = open_(FORMS[form](), batch_size=8 if form in {"arrays", "tensors"} else None)
    as_they_came = [1, 8, 1, 11] if form == "ragged" else [8, 8, 5]
    assert lengths(batches) == list(batches.were) == as_they_came
    assert batches.digest == open_(PAIR).digest
    assert batches.about() == {"samples": SAMPLES}
    assert batches.nbytes == X.nbytes + Y.nbytes
    for micro in (5, 30, None):
        again = batches.recut(micro)
        assert again.micro == micro
        assert lengths(again) == {5: [5, 5, 5, 5, 1], 30: [21], None: as_they_came}[micro]
        assert all(map(np.array_equal, numbers(again), PAIR))
        assert [number for number, _ in again] == list(range(len(lengths(again))))
        assert lengths(again.recut(None)) == as_they_came


STREAMED = ["arrays", "tensors", "dataset", "PyDataset", "list", "ragged"]


@pytest.mark.parametrize("form", STREAMED)
def test_what_does_not_fit_is_read_again_each_time(form):
    batches = open_(FORMS[form](), budget=100, batch_size=8 if form in {"arrays", "tensors"} else None)
    assert batches.kept is None
    assert batches.digest == open_(PAIR).digest
    assert batches.samples == SAMPLES
    assert batches.nbytes == max(batches.were) * (X[0].nbytes + Y[:1].nbytes)
    for micro in (None, 3, None):
        batches = batches.recut(micro)
        for _ in range(2):
            assert all(map(np.array_equal, numbers(batches), PAIR))
        assert max(lengths(batches)) <= (micro or 11)
    parts = [numbers(batches.recut(3).shard(0, 2).shard(index, 2))[1] for index in (0, 1)]
    parts.append(numbers(batches.recut(3).shard(1, 2))[1])
    assert sorted(np.concatenate(parts).tolist()) == sorted(Y.tolist())


@pytest.mark.parametrize("budget", [LARGE, 0])
def test_shards_take_turns_and_make_up_the_whole(budget):
    batches = open_(batches_of(), budget=budget).recut(2)
    shards = [[(number, batch[1].numpy().tolist()) for number, batch in batches.shard(at, 3)] for at in range(3)]
    whole = [(number, batch[1].numpy().tolist()) for number, batch in batches]
    assert sorted(itertools.chain(*shards)) == whole
    assert [number for number, _ in shards[1]] == list(range(1, len(whole), 3))


# ---------------------------------------------------------------------------------------------- weights and nests


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
    assert np.concatenate([batch[2].numpy() for _, batch in batches]).tolist() == W.astype("float32").tolist()
    assert all(map(np.array_equal, numbers(batches), PAIR))
    assert batches.digest == open_((X, Y, W)).digest != open_(PAIR).digest
    whole = open_((X, Y, (W > 0.5)))
    assert whole.kept[0][2].dtype == tf.float32
    assert open_(PAIR).kept[0][2] is None


NESTS = {
    "dict": ({"a": X, "b": X[:, :2]}, Y),
    "tuple": ((X, X[:, :2]), Y),
    "list": ([X, X[:, :2]], Y),
    "targets": (X, {"p": Y, "q": X}),
    "lists": ([X, X[:, :2]], [Y, X]),
    "weights": (X, {"p": Y, "q": X}, {"p": W, "q": W}),
}


@pytest.mark.parametrize("kind", NESTS)
@pytest.mark.parametrize("budget", [LARGE, 0])
def test_several_inputs_or_targets_are_cut_alike_and_keep_their_form(kind, budget):
    data = NESTS[kind]
    batches = open_(data, budget=budget, batch_size=8)
    slices = [tf.nest.map_structure(lambda part, at=at: part[at : at + 8], data) for at in range(0, SAMPLES, 8)]
    brought = open_(slices, budget=budget)
    for found in (batches, brought):
        pieces = [batch[: len(data)] for _, batch in found.recut(6)]
        for piece in pieces:
            tf.nest.assert_same_structure(piece, data)
        for place, wanted in enumerate(tf.nest.flatten(data)):
            column = np.concatenate([tf.nest.flatten(piece)[place].numpy() for piece in pieces])
            np.testing.assert_array_equal(column, wanted.astype("float32") if wanted is W else wanted)
    assert batches.digest == brought.digest


def test_tables_of_pandas_are_arrays():
    pandas = pytest.importorskip("pandas")
    batches = open_((pandas.DataFrame(X), pandas.Series(Y)))
    assert all(map(np.array_equal, numbers(batches), PAIR))


def test_what_a_batch_loss_takes_is_never_cut_or_put_together():
    items = [{"x": X[:4], "name": "a"}, {"x": X[4:], "name": "b"}]
    for budget in (LARGE, 0):
        batches = open_(items, budget=budget, pairs=False)
        assert [batch["name"] for _, batch in batches.recut(2)] == ["a", "b"]
        assert all(isinstance(batch["x"], tf.Tensor) for _, batch in batches)
        assert batches.samples == SAMPLES
    assert [len(batch) for _, batch in open_(PAIR, pairs=False)] == [2]


def test_batches_whose_lengths_differ_inside_stay_whole():
    tokens = np.arange(12.0).reshape(4, 3), np.arange(12)
    padded = [(np.ones((3, 4)), np.zeros(3)), (np.ones((3, 5)), np.zeros(3))]
    assert lengths(open_([tokens, tokens]).recut(2)) == [12, 12]
    assert [tuple(batch[0].shape) for _, batch in open_(padded)] == [(3, 4), (3, 5)]
    assert [tuple(batch[0].shape) for _, batch in open_(padded).recut(2)] == [(2, 4), (1, 4), (2, 5), (1, 5)]


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_the_loss_of_a_model_is_that_of_a_plain_loop_in_every_form(kind):
    named = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    added = keras.layers.Dense(4)(keras.layers.Add()(list(named.values())))
    model = keras.Model(named if kind == "dict" else list(named.values()), added)
    inputs = {"a": X, "b": 2 * X} if kind == "dict" else [X, 2 * X]
    logits = model(inputs).numpy().astype(float)
    each = np.log(np.exp(logits).sum(1)) - logits[range(SAMPLES), Y]
    pieces = [tf.nest.map_structure(lambda part, at=at: part[at : at + 8], (inputs, Y)) for at in range(0, SAMPLES, 8)]
    for data in ((inputs, Y), Numbered(pieces)):
        objective = gradvis.objective(model, data, "cross_entropy")
        found = objective.measure(objective.parameters())
        assert found["loss"] == pytest.approx(each.mean(), rel=1e-6)
        assert found["loss_stderr"] == pytest.approx(each.std(ddof=1) / np.sqrt(SAMPLES), rel=1e-6)
    weighted = gradvis.objective(model, (inputs, Y, W), "cross_entropy", data_budget=0)
    assert weighted.streamed
    assert weighted.measure(weighted.parameters())["loss"] == pytest.approx(W @ each / W.sum(), rel=1e-6)


# ---------------------------------------------------------------------------------------------- kinds of numbers


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4", "int8", "uint8", ">i4", "bool", "uint16", "bfloat16"])
def test_every_kind_of_number_is_what_it_was(kind):
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    array = np.arange(6).reshape(3, 2).astype(dtype)[::-1]
    found = open_((array, array[:, 0])).kept[0][0]
    assert found.dtype == (tf.float32 if "f" in kind else dtype.newbyteorder("=").name)
    np.testing.assert_array_equal(found.numpy().astype(float), array.astype(float))


@pytest.mark.parametrize("batch_size", [8, SAMPLES])
def test_what_is_kept_is_a_copy_and_lets_the_source_go(batch_size):
    room = np.empty(X.nbytes + 64, "uint8")  # an array that lies as TensorFlow would have it, were it to share one
    aligned = room[-room.ctypes.data % 64 :][: X.nbytes].view("float32").reshape(X.shape)
    aligned[:] = X
    for data in (aligned, X.copy(), X.astype("float64"), Y.copy()):
        batches = open_((data, Y), batch_size=batch_size)
        wanted = data.copy()
        data[:] = 0
        np.testing.assert_array_equal(numbers(batches)[0], wanted.astype(numbers(batches)[0].dtype))
        assert batches.source == ()


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


class Endless(keras.utils.PyDataset):
    def __getitem__(self, index):
        return batches_of()[0]


REFUSED = [
    ((np.array([None, {}]), Y[:2]), ValueError, "numbers were wanted, but an array of dtype object came"),
    ((np.zeros(3, "datetime64[s]"), Y[:3]), ValueError, r"an array of dtype datetime64\[s\] came; make it floats"),
    ((X.astype("complex64"), Y), ValueError, "dense real numbers were wanted, but complex64 came"),
    ([(tf.ragged.constant([[1.0], [1.0, 2.0]]), Y[:2])], ValueError, r"RaggedTensor of shape \(2, None\) came; pad"),
    ([([[1.0, 2.0]], [0])], ValueError, r"tensors or arrays were wanted as inputs and targets, but \(\(\(float, float"),
    ([], ValueError, "data with at least one batch was wanted"),
    ([(X[:0], Y[:0])], ValueError, "data with at least one batch was wanted"),
    ((X[:0], Y[:0]), ValueError, "at least 1, were wanted, but 0 and 0 came"),
    ((X, Y[:3]), ValueError, "inputs and targets of one length, at least 1, were wanted, but 21 and 3 came"),
    (({"a": X, "b": X[:3]}, Y), ValueError, "but 3 or 21 and 21 came"),
    ((X, Y, W[:3]), ValueError, "inputs, targets and sample weights of one length, .* but 21 and 21 and 3 came"),
    ((X, np.float32(1)), ValueError, "but 21 and 0 came"),
    ([X, X], ValueError, r"each batch must be \(inputs, targets\), or .* but float32 \(21, 6\) came"),
    ([(X, Y, W, W)], ValueError, "each batch must be"),
    ([{"x": X}], ValueError, r"but \{x: float32 \(21, 6\)\} came"),
    (tf.data.Dataset.from_tensor_slices(PAIR), ValueError, r"a single one came, .*; add .batch\(128\) to the dataset"),
    (dataset().repeat(), ValueError, "a finite dataset was wanted, but this one never ends; leave out .repeat"),
    (Endless(), ValueError, "data that says how long it is was wanted, but Endless has no __len__"),
    (itertools.cycle(batches_of()), ValueError, "itertools.cycle never does; pass what goes round in it"),
    (itertools.count(), ValueError, "itertools.count never does"),
    (3, TypeError, "data must be a pair of arrays, a tf.data.Dataset, a PyDataset or batches, but int came"),
    (X, TypeError, "but ndarray came"),
    ({"x": X}, TypeError, "but dict came"),
    (Numbered, TypeError, "but .*type.* came|but PyDataset came|but .* came"),
]


@pytest.mark.parametrize(("data", "error", "words"), REFUSED)
def test_what_is_no_data_is_refused_in_one_line(data, error, words):
    with pytest.raises(error, match=words) as raised:
        open_(data)
    assert "\n" not in str(raised.value)


def test_a_sparse_tensor_is_made_dense():
    found = open_([(tf.sparse.from_dense(X), Y)])
    np.testing.assert_array_equal(numbers(found)[0], X)


@pytest.mark.parametrize("data", [batches_of(), dataset(), Numbered(batches_of())])
def test_the_batch_size_of_batches_is_theirs(data):
    with pytest.raises(ValueError, match="brings its own batches; leave it out, or give micro_batch"):
        open_(data, batch_size=4)


# ---------------------------------------------------------------------------------------------- twice the same


class Noise(list):
    def __getitem__(self, index):
        return RNG.normal(size=(4, 2)), Y[:4]


def noisy(x):
    """Not by TensorFlow, which draws the same in each reading where somebody has set its global seed."""
    drawn = tf.numpy_function(lambda values: values + RNG.normal(size=values.shape).astype(values.dtype), [x], x.dtype)
    return tf.ensure_shape(drawn, x.shape)


CHANGING = {
    "shuffled": lambda: dataset().unbatch().shuffle(SAMPLES).batch(8),
    "augmented": lambda: dataset().map(lambda x, y: (noisy(x), y)),
    "iterable": lambda: Long(lambda: [(RNG.normal(size=(7, 2)), np.zeros(7)) for _ in range(3)]),
    "PyDataset": lambda: Numbered(Noise("ab")),
}


@pytest.mark.parametrize("form", CHANGING)
@pytest.mark.parametrize("budget", [LARGE, 0])
def test_data_that_changes_from_reading_to_reading_is_refused(form, budget):
    with pytest.raises(ValueError, match="its first batch came out different .* switch random transforms and shuffl"):
        open_(CHANGING[form](), budget=budget)


def test_a_shuffle_that_is_the_same_each_time_is_data():
    fixed = dataset().unbatch().shuffle(SAMPLES, seed=1, reshuffle_each_iteration=False).batch(8)
    assert sorted(numbers(open_(fixed))[1].tolist()) == sorted(Y.tolist())


def test_data_that_changes_later_is_seen_when_it_is_read_again():
    made = batches_of()
    batches = open_(made, budget=0)
    made[1] = (made[1][0] + 1, made[1][1])
    with pytest.raises(ValueError, match="batch 1 came out different when it was read again"):
        numbers(batches)
    made[1:] = []
    with pytest.raises(ValueError, match="3 batches became 1 when it was read again"):
        numbers(batches)
    made[:] = batches_of() + batches_of()
    with pytest.raises(ValueError, match="batch 3 came out different"):
        numbers(batches)


# ---------------------------------------------------------------------------------------------- without an end


def forever():
    while True:
        yield from batches_of()


def seeded():
    draw = np.random.default_rng(0)
    while True:
        yield draw.normal(size=(4, 6)), np.zeros(4)


def of_generator(make):
    kinds = tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None,), tf.int64)
    return tf.data.Dataset.from_generator(make, output_signature=kinds)


def test_what_goes_round_is_refused():
    for endless in (forever(), Again(forever), of_generator(forever)):
        with pytest.raises(ValueError, match="gives its first batch again and seems to go round for ever"):
            open_(endless)
    assert open_([batches_of()[0]] * 3).samples == 24
    assert open_(itertools.repeat(batches_of()[0], 1)).samples == 8


def test_what_neither_fits_nor_says_how_long_it_is_is_refused():
    with pytest.raises(ValueError, match="must say how long it is, but Again does not; give it a __len__"):
        open_(Again(seeded), budget=10_000)
    with pytest.raises(ValueError, match="an iterator can be read only once, and this one gave more than the 10000"):
        open_(seeded(), budget=10_000)
    ends = of_generator(batches_of)
    with pytest.raises(ValueError, match=r"Dataset does not; add .apply\(tf.data.experimental.assert_cardinality"):
        open_(ends, budget=10)
    told = ends.apply(tf.data.experimental.assert_cardinality(3))
    assert all(map(np.array_equal, numbers(open_(told, budget=10)), PAIR))
    assert open_(ends).samples == SAMPLES


def test_more_batches_than_the_length_says_are_refused():
    for budget in (LARGE, 0):
        with pytest.raises(ValueError, match="Long gives more than the 3 batches of its __len__"):
            open_(Long(lambda: batches_of() * 2), budget=budget)


# ---------------------------------------------------------------------------------------------- subsets


@pytest.mark.parametrize("form", FORMS)
def test_a_subset_is_the_same_samples_as_for_pytorch(form):
    chosen = np.sort(np.random.default_rng(0).choice(SAMPLES, 10, replace=False))
    batches = open_(FORMS[form](), samples=10)
    assert all(map(np.array_equal, numbers(batches), (X[chosen], Y[chosen])))
    assert batches.about() == {"samples": 10, "subset": {"of": SAMPLES, "seed": 0}}
    assert batches.digest == open_((X[chosen], Y[chosen])).digest
    for samples in (0, SAMPLES + 1):
        with pytest.raises(ValueError, match=f"from 1 to {SAMPLES}, as many as the data has, but {samples}"):
            open_(FORMS[form](), samples=samples)


def test_the_samples_of_a_subset_are_these_and_never_others():
    drawn = numbers(open_((np.arange(100.0)[:, None], np.arange(100)), samples=8))[1].tolist()
    assert drawn == [1, 4, 7, 25, 29, 48, 59, 79]


def test_a_subset_of_arrays_may_be_streamed_and_weights_go_with_it():
    chosen = np.sort(np.random.default_rng(0).choice(SAMPLES, 10, replace=False))
    for budget in (LARGE, 0):
        found = [batch[2].numpy() for _, batch in open_((X, Y, W), budget=budget, batch_size=4, samples=10)]
        np.testing.assert_array_equal(np.concatenate(found), W.astype("float32")[chosen])


def test_a_subset_of_what_has_no_samples_is_refused():
    with pytest.raises(ValueError, match=r"samples=N wants batches that are \(inputs, targets\) of one length, but"):
        open_([(np.ones((4, 3)), np.ones(12))], samples=2)
    with pytest.raises(ValueError, match=r"more than the 1 bytes .* came; choose them in the data: dataset.take"):
        open_(dataset(), budget=1, samples=2)


# ---------------------------------------------------------------------------------------------- files


def files(folder):
    np.savez(folder / "stored.npz", inputs=X, targets=Y)
    np.savez(folder / "foreign.npz", inputs=np.asfortranarray(X.astype(">f8")), targets=Y.astype(">i2"))
    save_file({"inputs": X, "targets": Y}, folder / "data.safetensors", {"made": "today"})
    return sorted(folder.iterdir())


@pytest.mark.parametrize("room", [64 << 20, 100, 0])
def test_a_data_file_of_every_kind_holds_the_same_numbers_kept_or_mapped(tmp_path, monkeypatch, room):
    monkeypatch.setattr(data_module, "_ROOM", room)
    for path in files(tmp_path):
        batches = open_(str(path), batch_size=8)
        assert (batches.kept is None) == (room < 1000)
        for micro in (None, 5):
            assert all(map(np.array_equal, numbers(batches.recut(micro)), PAIR)), path
        assert lengths(batches) == [8, 8, 5]
        assert path.name == "foreign.npz" or batches.digest == open_(PAIR).digest


def test_writing_to_what_came_from_a_file_never_reaches_it(tmp_path):
    for path in files(tmp_path):
        before = path.read_bytes()
        (inputs, targets), mapped = read_data(path)
        assert mapped
        inputs[:] = 7
        targets[:] = 1
        assert path.read_bytes() == before


def test_half_numbers_of_safetensors_are_read(tmp_path):
    half = X.astype(ml_dtypes.bfloat16)
    save_file({"inputs": half, "targets": Y.astype("uint8")}, tmp_path / "half.safetensors")
    found = numbers(open_(tmp_path / "half.safetensors"))
    np.testing.assert_array_equal(found[0], half.astype("float32"))
    np.testing.assert_array_equal(found[1], Y)


def test_a_compressed_file_is_read_whole_and_says_so_once(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", inputs=X, targets=Y)
    with pytest.warns(Note, match=r"^data.npz is compressed, so each rank reads a copy of its own; numpy") as said:
        batches = open_(tmp_path / "data.npz")
    assert len(said) == 1
    assert all(map(np.array_equal, numbers(batches), PAIR))


def wrong_files(folder):
    np.savez(folder / "names.npz", x_train=X, targets=Y)
    np.savez(folder / "objects.npz", inputs=np.array([{}, {}], object), targets=Y[:2])
    np.savez(folder / "lengths.npz", inputs=X, targets=Y[:4])
    np.savez(folder / "empty.npz", inputs=X[:0], targets=Y[:0])
    save_file({"inputs": X}, folder / "names.safetensors")
    save_file({"inputs": X, "targets": Y}, folder / "cut.safetensors")
    whole = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-8])
    (folder / "shape.safetensors").write_bytes(whole.replace(b"[21,6]", b"[22,6]"))
    (folder / "kind.safetensors").write_bytes(whole.replace(b'"F32"', b'"F4X"'))
    (folder / "random.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all")
    (folder / "long.safetensors").write_bytes(b"\xff" * 40)
    (folder / "text.npz").write_text("1,2")
    (folder / "data.pt").write_text("")
    (folder / "table.csv").write_text("1,2")
    (folder / "folder.npz").mkdir()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.npz", "a data file was wanted, but .*none.npz is not there$"),
        ("folder.npz", "is a folder$"),
        ("table.csv", "a data file ends in .npz, .safetensors, .pt, but '.*table.csv' came"),
        ("names.npz", "names.npz has no inputs, but targets, x_train; save both under these names"),
        ("names.safetensors", "has no targets, but inputs; save both"),
        ("objects.npz", "holds Python objects under inputs; save numbers"),
        ("lengths.npz", "inputs and targets of one length, at least 1, were wanted, but 21 and 4 came"),
        ("empty.npz", "at least 1, were wanted, but 0 and 0 came"),
        ("text.npz", r"a .npz file with inputs and targets was wanted, but .*text.npz cannot be read \(File is not a"),
        ("cut.safetensors", "cannot be read .*; it may be cut short or damaged"),
        ("shape.safetensors", "does not hold as many numbers under inputs as its header says; write it again"),
        ("kind.safetensors", "holds F4X numbers under inputs; save floats or integers"),
        ("random.safetensors", "cannot be read .*; it may be cut short or damaged"),
        ("long.safetensors", "is cut short or damaged; write it again"),
        ("data.pt", r"data.pt is read by torch, which takes no part in a TensorFlow job; write numpy.savez\('data"),
    ],
)
def test_a_file_without_data_is_refused_in_one_line(tmp_path, name, words):
    wrong_files(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        open_(tmp_path / name)
    assert "\n" not in str(error.value)


def read_or_refuse(path):
    """Whatever is in it: numbers, or one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return open_(path)
        except ValueError as error:
            return str(error)


@pytest.mark.parametrize("name", ["stored.npz", "data.safetensors"])
def test_a_damaged_file_is_read_or_refused(tmp_path, name):
    files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    draw = np.random.default_rng(1)
    for trial in range(60):
        content, cut_short = bytearray(whole), trial % 2 == 1
        if cut_short:
            del content[draw.integers(len(content)) :]
        for at in [] if cut_short else draw.integers(0, 400, 3):
            content[at] ^= draw.integers(1, 256)
        (tmp_path / f"damaged-{name}").unlink(missing_ok=True)
        (tmp_path / f"damaged-{name}").write_bytes(content)
        found = read_or_refuse(tmp_path / f"damaged-{name}")
        assert "\n" not in found if isinstance(found, str) else not cut_short


def test_a_description_names_kinds_and_shapes():
    value = {"ids": tf.ones((2, 3), tf.int64), "more": [np.ones(2), "text"]}
    assert describe(value) == "{ids: int64 (2, 3), more: (float64 (2,), str)}"


@pytest.mark.parametrize("module", [batch_module, given_module])
def test_the_examples_in_the_documentation_are_true(module):
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)
