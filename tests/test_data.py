"""Data in every form: the same samples, in order, once each; what is no data is refused in one line."""

import doctest
import itertools
import os
import subprocess
import sys
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

import gradvis
from gradvis.backends.pytorch import batch as batch_module
from gradvis.backends.pytorch import data as data_module
from gradvis.backends.pytorch import sources as sources_module
from gradvis.backends.pytorch.batch import describe, joined
from gradvis.backends.pytorch.data import cut, load, sample_count, transfer
from gradvis.backends.pytorch.files import read_data
from gradvis.backends.pytorch.guard import generators_kept
from gradvis.notes import Note

SAMPLES = 21
LARGE = 1 << 30


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, 6, generator=draw), torch.randint(4, (SAMPLES,), generator=draw)


@pytest.fixture(autouse=True)
def own_generators():
    with generators_kept():
        yield


def place(batch):
    return transfer(batch, torch.device("cpu"), torch.float32)


def open_(data, budget=LARGE, batch_size=None, join=True, **options):
    return load(data, place, batch_size, budget, join, **options)


def numbers(batches):
    """All samples in order, end to end."""
    pieces = [batch for chunk in batches.chunks() for _, batch in chunk]
    return tuple(torch.cat([piece[part] for piece in pieces]) for part in (0, 1))


class Numbered(Dataset):
    def __init__(self, pair):
        self.pair = pair

    def __len__(self):
        return len(self.pair[0])

    def __getitem__(self, index):
        return self.pair[0][index], self.pair[1][index]


class Stream(IterableDataset):
    """One sample after the other; every worker gives every `workers`-th."""

    def __init__(self, pair, says=None, shared=True):
        self.pair, self.shared = pair, shared
        if says is not None:
            self.says = says

    def __len__(self):
        if not hasattr(self, "says"):
            raise TypeError("no length")
        return self.says

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker and self.shared else (0, 1)
        return itertools.islice(zip(*self.pair, strict=True), first, None, step)


class Again:
    """Batches without a length, made anew each time."""

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())


def batches_of(pair, size=8):
    return [(pair[0][i : i + size], pair[1][i : i + size]) for i in range(0, SAMPLES, size)]


# ---------------------------------------------------------------------------------------------- files


def files(pair, folder, stretch=1):
    inputs, targets = (part.repeat_interleave(stretch, 0) for part in pair)
    np.savez(folder / "stored.npz", inputs=inputs.numpy(), targets=targets.numpy())
    np.savez(
        folder / "foreign.npz",
        inputs=np.asfortranarray(inputs.numpy().astype(">f8")),
        targets=targets.numpy().astype(">i2"),
    )
    save_file({"inputs": inputs, "targets": targets}, folder / "data.safetensors")
    torch.save({"inputs": inputs, "targets": targets}, folder / "data.pt")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("room", [64 << 20, 100, 0])
def test_a_data_file_of_every_kind_holds_the_same_numbers_kept_or_mapped(pair, tmp_path, monkeypatch, room):
    monkeypatch.setattr(data_module, "_ROOM", room)
    digests = {open_(pair).digest()}
    for path in files(pair, tmp_path):
        batches = open_(path, batch_size=8)
        assert (batches.kept is None) == (room < 1000)
        for micro in (None, 5):
            inputs, targets = numbers(load_micro(batches, micro))
            assert torch.equal(inputs, pair[0]), path
            assert torch.equal(targets, pair[1].to(targets.dtype)), path
        assert [len(batch[1]) for batch in batches.whole()] == batches.lengths() == [8, 8, 5]
        assert batches.about() == {"samples": SAMPLES}
        if path.name != "foreign.npz":
            digests.add(batches.digest())
    assert len(digests) == 1


def load_micro(batches, micro):
    return data_module.replace(batches, micro=micro)


def test_the_loss_on_a_mapped_file_is_the_loss_on_arrays(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "_ROOM", 100)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    kept = gradvis.objective(model, pair, "cross_entropy", micro_batch=5)
    theta = kept.parameters()
    wanted = kept.measure(theta)
    np.testing.assert_allclose(wanted["loss"], F.cross_entropy(model(pair[0]), pair[1]).item(), rtol=1e-6)
    for path in files(pair, tmp_path):
        mapped = gradvis.objective(model, str(path), "cross_entropy", micro_batch=5)
        assert mapped.streamed
        assert mapped.measure(theta) == pytest.approx(wanted, rel=1e-6)
        np.testing.assert_allclose(mapped.gradient(theta), kept.gradient(theta), atol=1e-6)
        assert mapped.fingerprint() == kept.fingerprint()


def test_writing_to_what_came_from_a_file_never_reaches_it(pair, tmp_path):
    for path in files(pair, tmp_path):
        before = path.read_bytes()
        (inputs, targets), mapped = read_data(path)
        assert mapped
        inputs[:] = 7
        targets[:] = 1
        assert path.read_bytes() == before


SHARING = """
import sys, torch
from gradvis.backends.pytorch import data
def anonymous():
    rows = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return int(rows["Anonymous"].split()[0]) >> 10
data._ROOM = 4 << 20
place = lambda batch: data.transfer(batch, torch.device("cpu"), torch.float32)
for path in sys.argv[1:]:
    before = anonymous()
    batches = data.load(path, place, 4, 1 << 40, True)
    total, most = 0, 0
    for chunk in batches.chunks():
        total += sum(float(batch[0].sum()) for _, batch in chunk)
        most = max(most, anonymous() - before)
    print(most, total)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="only Linux tells what memory is shared")
def test_a_file_larger_than_the_room_takes_no_memory_of_its_own(tmp_path):
    megabytes = 64
    inputs = torch.ones(megabytes, 1 << 18)
    targets = torch.zeros(megabytes)
    np.savez(tmp_path / "data.npz", inputs=inputs.numpy(), targets=targets.numpy())
    save_file({"inputs": inputs, "targets": targets}, tmp_path / "data.safetensors")
    torch.save({"inputs": inputs, "targets": targets}, tmp_path / "data.pt")
    done = subprocess.run(
        [sys.executable, "-c", SHARING, *sorted(tmp_path.iterdir())],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    found = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert [total for _, total in found] == [megabytes << 18] * 3
    assert max(own for own, _ in found) < megabytes / 2


def test_a_compressed_file_is_read_whole_and_says_so_once(pair, tmp_path):
    np.savez_compressed(tmp_path / "data.npz", inputs=pair[0].numpy(), targets=pair[1].numpy())
    with pytest.warns(
        Note, match=r"^data.npz is compressed, so each rank reads a copy of its own; numpy.savez"
    ) as said:
        batches = open_(tmp_path / "data.npz")
    assert len(said) == 1
    assert all(map(torch.equal, numbers(batches), pair))


def test_a_torch_file_may_hold_several_inputs(pair, tmp_path):
    inputs = {"a": pair[0][:, :2].clone(), "b": [pair[0][:, 2:].clone()]}
    torch.save({"inputs": inputs, "targets": pair[1], "made": "today"}, tmp_path / "data.pt")
    (batch,) = open_(tmp_path / "data.pt").kept
    assert torch.equal(batch[0]["a"], inputs["a"])
    assert torch.equal(batch[0]["b"][0], inputs["b"][0])


def test_tensors_of_a_torch_file_keep_their_values_whatever_their_strides(pair, tmp_path):
    torch.save({"inputs": pair[0].T.contiguous().T, "targets": pair[1][:1].expand(SAMPLES)}, tmp_path / "data.pt")
    inputs, targets = numbers(open_(tmp_path / "data.pt"))
    assert torch.equal(inputs, pair[0])
    assert targets.tolist() == pair[1][:1].tolist() * SAMPLES


def wrong_files(folder, pair):
    x, y = (part.numpy() for part in pair)
    np.savez(folder / "names.npz", x_train=x, targets=y)
    np.savez(folder / "objects.npz", inputs=np.array([{}, {}], object), targets=y[:2])
    np.savez(folder / "strings.npz", inputs=np.array(["a", "b"]), targets=y[:2])
    np.savez(folder / "lengths.npz", inputs=x, targets=y[:4])
    np.savez(folder / "empty.npz", inputs=x[:0], targets=y[:0])
    np.savez(folder / "single.npz", inputs=np.float32(1), targets=np.float32(1))
    save_file({"inputs": pair[0]}, folder / "names.safetensors")
    torch.save(pair, folder / "tuple.pt")
    torch.save({"inputs": "abc", "targets": pair[1]}, folder / "text.pt")
    torch.save({"inputs": TensorDataset(*pair), "targets": pair[1]}, folder / "pickle.pt")
    (folder / "table.csv").write_text("1,2")
    (folder / "folder.npz").mkdir()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("none.npz", "a data file was wanted, but .*none.npz is not there$"),
        ("folder.npz", "is a folder$"),
        ("table.csv", "a data file ends in .npz, .safetensors, .pt, but '.*table.csv' came"),
        ("names.npz", "names.npz has no inputs, but targets, x_train; save both under these names"),
        ("names.safetensors", "has no targets, but inputs; save both"),
        ("objects.npz", "holds Python objects under inputs; save numbers"),
        ("strings.npz", "numbers were wanted, but an array of dtype <U1 came"),
        ("lengths.npz", "inputs and targets of one length, at least 1, were wanted, but 21 and 4 came"),
        ("empty.npz", "at least 1, were wanted, but 0 and 0 came"),
        ("single.npz", "at least 1, were wanted, but 0 and 0 came"),
        ("tuple.pt", "holds a tuple; save a dict with inputs and targets"),
        ("text.pt", "holds a str under inputs; save tensors"),
        ("pickle.pt", "pickle.pt cannot be read .Weights only load failed.*; it may be cut short or damaged"),
    ],
)
def test_a_file_without_data_is_refused_in_one_line(pair, tmp_path, name, match):
    wrong_files(tmp_path, pair)
    with pytest.raises(ValueError, match=match) as error:
        open_(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    draw = torch.Generator().manual_seed(0)
    pair = torch.randn(5, 3, generator=draw), torch.randint(4, (5,), generator=draw)
    folder = tmp_path_factory.mktemp("files")
    np.savez_compressed(folder / "compressed.npz", inputs=pair[0].numpy(), targets=pair[1].numpy())
    np.savez(folder / "stored.npz", inputs=pair[0].numpy(), targets=pair[1].numpy())
    save_file({"inputs": pair[0], "targets": pair[1]}, folder / "data.safetensors")
    torch.save({"inputs": pair[0], "targets": pair[1]}, folder / "data.pt")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = ["compressed.npz", "stored.npz", "data.safetensors", "data.pt"]


def read_or_refuse(path):
    """Whatever is in it: numbers, or one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            batches = open_(path)
            batches.digest()
        except ValueError as error:
            return str(error)
        return batches


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(drawn=st.data())
def test_a_damaged_file_is_read_or_refused(whole_files, tmp_path_factory, name, drawn):
    content = bytearray(whole_files[name])
    end = drawn.draw(st.integers(0, len(content) - 1))
    cut_short = drawn.draw(st.booleans())
    if cut_short:
        del content[end:]
    else:
        for at in drawn.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] ^= drawn.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    found = read_or_refuse(path)
    assert "\n" not in found if isinstance(found, str) else not cut_short


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x08" + bytes(7)]))
def test_random_bytes_are_no_data(tmp_path_factory, suffix, content, head):
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(head + content)
    found = read_or_refuse(path)
    assert isinstance(found, str)
    assert "\n" not in found


# ---------------------------------------------------------------------------------------------- several inputs


Two = namedtuple("Two", "left right")


def nested(pair, kind):
    left, right = pair[0][:, :2], pair[0][:, 2:]
    inputs = {
        "dict": {"left": left, "right": right},
        "tuple": (left, right),
        "list": [left, right],
        "named": Two(left, right),
    }[kind]
    return inputs, pair[1]


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 4)

    def forward(self, left, right):
        return self.a(left) + self.b(right).tanh()


@pytest.mark.parametrize("budget", [LARGE, 0])
@pytest.mark.parametrize("kind", ["dict", "tuple", "list", "named"])
def test_several_inputs_are_counted_joined_and_cut_like_one(pair, kind, budget):
    inputs, targets = nested(pair, kind)
    given_whole = open_((inputs, targets), budget=budget, batch_size=8)
    dataset = [(nested((x, y), kind)) for x, y in batches_of(pair)]
    given_batches = open_(dataset, budget=budget)
    for batches in (given_whole, given_batches):
        assert (batches.kept is None) == (budget == 0)
        if budget:
            assert len(batches.kept) == 1
            assert batches.samples() == SAMPLES
        small = load_micro(batches, 6)
        pieces = [batch for chunk in small.chunks() for _, batch in chunk]
        assert all(type(piece[0]) is type(inputs) for piece in pieces)
        assert max(map(sample_count, pieces)) <= 6
        parts = [list(piece[0].values()) if kind == "dict" else list(piece[0]) for piece in pieces]
        assert torch.equal(torch.cat([torch.cat(part, 1) for part in parts]), pair[0])
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), pair[1])
        assert [sample_count(batch) for batch in batches.whole()] == [8, 8, 5]
    assert given_whole.digest() == given_batches.digest()


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_the_loss_of_a_model_of_several_inputs_is_that_of_a_plain_loop(pair, kind):
    torch.manual_seed(0)
    model = Adds()
    wanted = F.cross_entropy(model(pair[0][:, :2], pair[0][:, 2:]), pair[1]).item()
    objective = gradvis.objective(model, nested(pair, kind), "cross_entropy", batch_size=8)
    np.testing.assert_allclose(objective.measure(objective.parameters())["loss"], wanted, rtol=1e-6)


def test_batches_whose_lengths_differ_inside_are_never_cut():
    tokens = torch.arange(12.0).reshape(4, 3), torch.arange(12)
    assert [len(piece[1]) for piece in cut(tokens, 2)] == [12]
    assert len(joined([tokens, tokens])) == 2
    assert open_([tokens, tokens]).samples() == 8


def test_batches_padded_to_their_own_length_stay_apart(pair):
    ragged = [(torch.ones(3, 4), torch.zeros(3)), (torch.ones(3, 5), torch.zeros(3))]
    batches = open_(ragged)
    assert [tuple(batch[0].shape) for batch in batches.kept] == [(3, 4), (3, 5)]
    assert batches.lengths() == [3, 3]


# ---------------------------------------------------------------------------------------------- subsets


def numbered_forms(pair, folder):
    path = folder / "data.npz"
    np.savez(path, inputs=pair[0].numpy(), targets=pair[1].numpy())
    return {
        "arrays": pair,
        "file": path,
        "dataset": Numbered(pair),
        "loader": DataLoader(range(SAMPLES), 8, collate_fn=lambda at: (pair[0][at], pair[1][at])),
        "shuffling loader": DataLoader(TensorDataset(*pair), 8, shuffle=True, drop_last=True),
        "batches": batches_of(pair),
        "generator": iter(batches_of(pair)),
        "loader of a stream": DataLoader(Stream(pair), 5),
        "ragged": [tuple(part[i:j] for part in pair) for i, j in itertools.pairwise([0, 1, 9, 10, SAMPLES])],
    }


FORMS = [
    "arrays",
    "file",
    "dataset",
    "loader",
    "shuffling loader",
    "batches",
    "generator",
    "loader of a stream",
    "ragged",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_subset_is_the_same_samples_in_every_form(pair, tmp_path, form):
    chosen = np.sort(np.random.default_rng(3).choice(SAMPLES, 10, replace=False))
    batches = open_(numbered_forms(pair, tmp_path)[form], batch_size=4, samples=10, seed=3)
    assert all(map(torch.equal, numbers(batches), (pair[0][chosen], pair[1][chosen])))
    assert batches.about() == {"samples": 10, "subset": {"of": SAMPLES, "seed": 3}}


@pytest.mark.parametrize("form", ["arrays", "file", "dataset", "loader", "shuffling loader"])
def test_a_subset_is_the_same_when_it_is_streamed(pair, tmp_path, form):
    batches = open_(numbered_forms(pair, tmp_path)[form], budget=0, batch_size=4, samples=10, seed=3)
    assert batches.kept is None
    chosen = np.sort(np.random.default_rng(3).choice(SAMPLES, 10, replace=False))
    for micro in (None, 3):
        assert torch.equal(numbers(load_micro(batches, micro))[0], pair[0][chosen])
    assert batches.about() == {"samples": 10, "subset": {"of": SAMPLES, "seed": 3}}


def test_the_samples_of_a_seed_are_these_and_never_others(pair):
    kept = torch.arange(100.0)[:, None], torch.arange(100)
    drawn = numbers(open_(kept, samples=8, seed=0))[1].tolist()
    assert drawn == [1, 4, 7, 25, 29, 48, 59, 79]
    assert numbers(open_(kept, samples=8, seed=1))[1].tolist() != drawn


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [0, -1, SAMPLES + 1])
def test_more_samples_than_there_are_or_none_are_refused(pair, tmp_path, form, samples):
    with pytest.raises(
        ValueError, match=f"samples must be from 1 to {SAMPLES}, as many as the data has, but {samples}"
    ):
        open_(numbered_forms(pair, tmp_path)[form], samples=samples)


def test_a_subset_of_what_has_no_samples_is_refused(pair):
    with pytest.raises(
        ValueError, match="samples=N wants batches that are .inputs, targets. of one length, but .float32"
    ):
        open_([(torch.ones(4, 3), torch.ones(12))], samples=2)
    with pytest.raises(ValueError, match="samples=N is for arrays, data files, and datasets"):
        open_(batches_of(pair), budget=1, samples=2)


# ---------------------------------------------------------------------------------------------- loaders


def seen_by(worker):
    torch.utils.data.get_worker_info().dataset.label = worker + 1


class Labelled(Numbered):
    label = 0

    def __getitem__(self, index):
        return self.pair[0][index], torch.tensor(self.label)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_their_set_up_and_the_collate_function_are_kept(pair, persistent):
    loader = DataLoader(
        Labelled(pair), 8, shuffle=True, num_workers=2, worker_init_fn=seen_by, prefetch_factor=1,
        persistent_workers=persistent, collate_fn=lambda items: tuple(map(torch.stack, zip(*items, strict=True))),
    )  # fmt: skip
    for budget in (LARGE, 0):
        batches = open_(loader, budget=budget)
        for _ in range(2):
            inputs, labels = numbers(batches)
            assert torch.equal(inputs, pair[0])
            assert labels.tolist() == [1] * 8 + [2] * 8 + [1] * 5


def test_a_stream_cut_up_among_workers_gives_each_sample_once_and_one_that_is_not_is_refused(pair):
    found = numbers(open_(DataLoader(Stream(pair, SAMPLES), 4, num_workers=2)))[1]
    assert sorted(found.tolist()) == sorted(pair[1].tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        with pytest.raises(ValueError, match="Stream gives more than the 6 batches of its __len__.*each worker"):
            open_(DataLoader(Stream(pair, SAMPLES, shared=False), 4, num_workers=2))


def test_the_users_generator_and_reading_under_way_are_left_alone(pair):
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*pair), 8, shuffle=True, generator=generator)
    sequential = DataLoader(TensorDataset(*pair), 8, generator=generator)
    before = generator.get_state()
    for each in (loader, sequential):
        open_(each)
        open_(each, budget=0)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", ["batch_sampler", "sampler"])
def test_a_standard_batch_sampler_is_read_in_order_and_whole(pair, kind):
    dataset = TensorDataset(*pair)
    sampler = BatchSampler(SequentialSampler(dataset), 8, drop_last=True)
    loader = DataLoader(dataset, batch_sampler=sampler) if kind == "batch_sampler" else DataLoader(dataset, 8)
    batches = open_(loader)
    assert all(map(torch.equal, numbers(batches), pair))
    assert batches.lengths() == [8, 8, 5]


class Odd(BatchSampler):
    def __iter__(self):
        return iter([[0, 0, 0]])


def test_a_sampler_of_ones_own_is_refused(pair):
    dataset = TensorDataset(*pair)
    with pytest.raises(ValueError, match="a loader whose samples are known was wanted, but its sampler is a Odd; pass"):
        open_(DataLoader(dataset, batch_sampler=Odd(SequentialSampler(dataset), 8, False)))


def test_a_dataset_without_a_length_is_refused():
    class Endless(Dataset):
        def __getitem__(self, index):
            return torch.zeros(1), 0

    with pytest.raises(TypeError, match="a dataset that says how long it is was wanted, but Endless has no __len__"):
        open_(Endless())


# ---------------------------------------------------------------------------------------------- twice the same


class Augmented(Numbered):
    def __getitem__(self, index):
        return self.pair[0][index] + torch.randn(6), self.pair[1][index]


class Shuffling(IterableDataset):
    def __init__(self, pair):
        self.pair = pair

    def __iter__(self):
        return iter([(self.pair[0][at], self.pair[1][at]) for at in torch.randperm(SAMPLES)])


CHANGING = {
    "augmented": Augmented,
    "augmented in workers": lambda pair: DataLoader(Augmented(pair), 8, num_workers=1),
    "shuffling stream": Shuffling,
    "shuffling batches": lambda pair: Again(lambda: [batches_of(pair)[at] for at in torch.randperm(3)] * 3),
    "unseeded": lambda pair: Again(lambda: ((torch.randn(4, 6), torch.zeros(4)) for _ in range(3))),
}


@pytest.mark.parametrize("form", CHANGING)
@pytest.mark.parametrize("budget", [LARGE, 0])
def test_data_that_changes_from_reading_to_reading_is_refused(pair, form, budget):
    torch.manual_seed(2)
    with pytest.raises(
        ValueError, match="its first batch came out different.*switch random transforms and shuffling off"
    ):
        open_(CHANGING[form](pair), budget=budget)


def test_data_with_nans_and_objects_is_the_same_when_it_is():
    made = []

    def batches():
        made.append(object())
        return [(torch.full((4, 2), torch.nan), made[-1])]

    (batch,) = open_(Again(batches), join=False).kept
    assert batch[0].isnan().all()
    assert len(made) == 2


# ---------------------------------------------------------------------------------------------- without an end


def test_what_never_ends_is_refused(pair):
    batch = batches_of(pair)[0]
    for endless, name in (
        (itertools.cycle([batch]), "cycle"),
        (itertools.count(), "count"),
        (itertools.repeat(batch), "repeat"),
    ):
        with pytest.raises(ValueError, match=f"data that ends was wanted, but itertools.{name} never does"):
            open_(endless)
    assert open_(itertools.repeat(batch, 1)).samples() == 8


@pytest.mark.parametrize("form", ["again", "once"])
def test_what_goes_round_is_refused(pair, form):
    def forever():
        while True:
            yield from batches_of(pair)

    endless = Again(forever) if form == "again" else forever()
    with pytest.raises(ValueError, match="gives its first batch again and seems to go round for ever"):
        open_(endless)


def test_a_list_may_repeat_a_batch(pair):
    assert open_([batches_of(pair)[0]] * 3).samples() == 24


def test_what_neither_fits_nor_says_how_long_it_is_is_refused(pair):
    def seeded():
        draw = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(4, 6, generator=draw), torch.zeros(4)

    with pytest.raises(ValueError, match="must say how long it is, but Again does not; give it, .* a __len__"):
        open_(Again(seeded), budget=10_000)
    with pytest.raises(ValueError, match="an iterator can be read only once"):
        open_(seeded(), budget=10_000)
    with pytest.raises(ValueError, match="must say how long it is"):
        open_(DataLoader(Stream(pair), 4), budget=10)
    assert open_(DataLoader(Stream(pair, SAMPLES), 4), budget=10).kept is None
    assert open_(Stream(pair), budget=LARGE, batch_size=4).samples() == SAMPLES


def test_more_batches_than_the_length_says_are_refused(pair):
    class Short(Again):
        def __len__(self):
            return 2

    for budget in (LARGE, 0):
        with pytest.raises(ValueError, match="Short gives more than the 2 batches of its __len__"):
            numbers(open_(Short(lambda: batches_of(pair)), budget=budget))


# ---------------------------------------------------------------------------------------------- kinds of numbers


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (lambda x, y: (np.array([None, {}]), y[:2]), "numbers were wanted, but an array of dtype object came"),
        (lambda x, y: (np.array(["a", "b"]), y[:2]), "an array of dtype <U1 came; make it floats or integers first"),
        (lambda x, y: (x.to(torch.complex64), y), "dense real numbers were wanted, but complex64 came"),
        (lambda x, y: [(x.numpy().astype(complex), y)], "dense real numbers were wanted, but complex128 came"),
        (lambda x, y: [(x.to_sparse(), y)], "dense real numbers were wanted, but sparse_coo came"),
        (
            lambda x, y: [([[1.0, 2.0]], [0])],
            "tensors or arrays were wanted as inputs and targets, but ...float, float",
        ),
        (lambda x, y: [], "data with at least one batch was wanted"),
        (lambda x, y: [(x[:0], y[:0])], "data with at least one batch was wanted"),
        (lambda x, y: ({"a": x, "b": x[:3]}, y), "of one length, at least 1, were wanted, but 3 or 21 and 21 came"),
    ],
)
def test_what_holds_no_numbers_is_refused_in_one_line(pair, data, match):
    with pytest.raises(ValueError, match=match) as error:
        open_(data(*pair))
    assert "\n" not in str(error.value)


def test_every_kind_of_number_is_what_it_was():
    for kind in ("float16", "float64", ">f4", "int8", "uint8", ">i4", "bool", "uint16"):
        array = np.arange(6).reshape(3, 2).astype(kind)[::-1]
        found = open_((array, array[:, 0])).kept[0][0]
        assert found.dtype == (torch.float32 if array.dtype.kind == "f" else found.dtype)
        np.testing.assert_array_equal(found.numpy(), array.astype(array.dtype.newbyteorder("=")))


@pytest.mark.parametrize("batch_size", [8, SAMPLES])
def test_what_is_kept_is_a_copy_and_lets_the_source_go(pair, batch_size):
    for array in (pair[0].clone(), pair[0].numpy().copy()):
        batches = open_((array, pair[1]), batch_size=batch_size)
        array[:] = 0
        assert torch.equal(numbers(batches)[0], pair[0])
        assert batches.source == ()


def test_a_check_sees_every_batch_now_or_when_it_is_loaded(pair):
    for budget, when in ((LARGE, "now"), (0, "later")):
        seen = []
        batches = open_(pair, budget=budget, batch_size=8).checked(lambda batch: seen.append(len(batch[1])))  # noqa: B023
        assert sum(seen) == (SAMPLES if when == "now" else 0)
        numbers(batches)
        assert sum(seen) == SAMPLES


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_ragged_batches_come_out_whole_and_in_order_however_they_are_cut_and_shared(lengths, micro, shards):
    count = sum(lengths)
    whole = torch.arange(2.0 * count).reshape(count, 2), torch.arange(count)
    bounds = list(itertools.pairwise(itertools.accumulate(lengths, initial=0)))
    given_batches = [(whole[0][i:j], whole[1][i:j]) for i, j in bounds]
    kept, streamed = open_(given_batches), open_(given_batches, budget=0)
    assert kept.digest() == streamed.digest() == open_(whole).digest()
    for batches in (kept, streamed):
        assert [batch[1].tolist() for batch in batches.whole()] == [list(range(i, j)) for i, j in bounds]
        small = load_micro(batches, micro)
        assert torch.equal(numbers(small)[1], whole[1])
        shared = [
            piece
            for index in range(shards)
            for chunk in small.shard(index, shards).chunks()
            for _, batch in chunk
            for piece in batch[1].tolist()
        ]
        assert sorted(shared) == list(range(count))


def test_a_description_names_kinds_and_shapes():
    value = {"ids": torch.ones(2, 3, dtype=torch.long), "more": [np.ones(2), "text"]}
    assert describe(value) == "{ids: int64 (2, 3), more: (float64 (2,), str)}"


@pytest.mark.parametrize("module", [batch_module, sources_module])
def test_the_examples_in_the_documentation_are_true(module):
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)
