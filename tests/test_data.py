"""Data as PyTorch has it: its files, loaders, workers, samplers and streams."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from gradvis.backends.pytorch.data import load, transfer
from gradvis.backends.pytorch.guard import generators_kept

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


# ---------------------------------------------------------------------------------------------- files


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


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("tuple.pt", "holds a tuple; save a dict with inputs and targets"),
        ("text.pt", "holds a str under inputs; save tensors"),
        ("pickle.pt", "pickle.pt cannot be read .Weights only load failed.*; it may be cut short or damaged"),
    ],
)
def test_a_torch_file_without_data_is_refused_in_one_line(pair, tmp_path, name, match):
    torch.save(pair, tmp_path / "tuple.pt")
    torch.save({"inputs": "abc", "targets": pair[1]}, tmp_path / "text.pt")
    torch.save({"inputs": TensorDataset(*pair), "targets": pair[1]}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match=match) as error:
        open_(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [1, 3])
def test_another_seed_draws_other_samples(pair, seed):
    chosen = np.sort(np.random.default_rng(seed).choice(SAMPLES, 10, replace=False))
    for data, budget in ((pair, LARGE), (pair, 0), (Numbered(pair), 0)):
        batches = open_(data, budget=budget, batch_size=4, samples=10, seed=seed)
        assert torch.equal(numbers(batches)[0], pair[0][chosen])
        assert batches.about() == {"samples": 10, "subset": {"of": SAMPLES, "seed": seed}}


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


def test_a_stream_that_does_not_fit_must_say_how_long_it_is(pair):
    with pytest.raises(ValueError, match="must say how long it is, but DataLoader does not; give it, .* a __len__"):
        open_(DataLoader(Stream(pair), 4), budget=10)
    assert open_(DataLoader(Stream(pair, SAMPLES), 4), budget=10).kept is None
    assert open_(Stream(pair), batch_size=4).samples() == SAMPLES
