"""Result folders: what is written is read back, and a kill, a full disk or a second run loses nothing."""

import errno
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray

import gradvis.folder
import gradvis.layout
import gradvis.store
from gradvis.claim import prepare
from gradvis.cli.door import _verdict
from gradvis.folder import StoreError, read_about
from gradvis.plane import Plane
from gradvis.store import Store
from gradvis.surface import open_surface

METRICS = ("accuracy", "loss", "loss_stderr")
AXES = {"alpha": np.linspace(-1, 1, 5), "beta": np.linspace(-0.5, 1.5, 9)}
PLANE = Plane(np.arange(7.0, dtype=np.float32), np.eye(7, dtype=np.float32)[:2], {"kind": "random", "seed": 0})


def make(path, **changes):
    usual = {
        "kind": "surface",
        "axes": AXES,
        "metrics": METRICS,
        "tile": (2, 4),
        "identity": {"samples": 100, "data": "0123456789abcdef", "loss": {"name": "mse", "unit": "sample"}},
        "provenance": {"versions": {"gradvis": "0"}, "seed": 0},
        "plane": PLANE,
        "fresh": False,
    }
    return prepare(path, **{**usual, **changes})


def truth(store, tile):
    """Values of every kind: a whole tile of NaN, infinities, zeros of both signs, negatives and denormals."""
    points = store.tiles.points(tile)
    values = np.stack([points[:, 0] - 2, points @ [3.0, 5.0] * 1e-310, points[:, 1] ** 3], axis=-1)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    values[0] = special[tile % 5]
    if tile == 3:
        values[:] = np.nan
    return values


def fill(store, tiles=None):
    for tile in store.tiles.order() if tiles is None else tiles:
        store.write(tile, truth(store, tile))
    store.write_center(np.array([0.9, 0.1, 0.01]))


def assert_holds(store, tiles=None):
    """Every tile given is done and is what was written, to the bit; no other one is done."""
    tiles = range(store.tiles.count) if tiles is None else tiles
    assert np.flatnonzero(store.done()).tolist() == sorted(tiles)
    for tile in tiles:
        np.testing.assert_array_equal(store.read(tile).view(np.uint64), truth(store, tile).view(np.uint64))


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.surface.zarr"


@pytest.fixture
def store(path):
    make(path)
    return Store(path)


# --- what is written is read back


def test_a_new_result_says_what_it_is(store, path):
    assert (store.tiles.shape, store.tiles.tile, store.tiles.count, store.metrics) == ((5, 9), (2, 4), 9, METRICS)
    assert list(store.tiles.axes) == ["alpha", "beta"]
    np.testing.assert_array_equal(store.tiles.axes["beta"], AXES["beta"])
    assert not store.done().any()
    assert not store.mask().any()
    assert not store.complete
    assert store.read(0) is None
    assert store.read_center() is None
    about = read_about(path)
    assert (about["format"], about["kind"], about["complete"], about["tile"]) == (1, "surface", False, [2, 4])
    assert about["versions"] == {"gradvis": "0"}
    assert store.identity["samples"] == 100


def test_tiles_cover_the_grid_once_with_their_own_points(store):
    seen = np.zeros(store.tiles.shape, int)
    grid = np.stack(np.meshgrid(*AXES.values(), indexing="ij"), axis=-1)
    for tile in range(store.tiles.count):
        part = store.tiles.slices(tile)
        seen[part] += 1
        np.testing.assert_array_equal(store.tiles.points(tile), grid[part].reshape(-1, 2))
    assert (seen == 1).all()
    assert sorted(store.tiles.order()) == list(range(store.tiles.count))


def test_every_value_is_a_result_like_any_other(store, path):
    fill(store)

    assert_holds(Store(path))
    np.testing.assert_array_equal(Store(path).read_center(), [0.9, 0.1, 0.01])


def test_mask_and_done_follow_the_tiles_not_the_values(store):
    store.write(3, truth(store, 3))  # NaN everywhere

    assert np.flatnonzero(store.done()).tolist() == [3]
    assert store.mask()[store.tiles.slices(3)].all()
    assert store.mask().sum() == len(store.tiles.points(3))


def test_a_tile_is_done_only_when_its_loss_is_written(store, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(store._arrays["loss"]), "__setitem__", _failing_for("loss_stderr", full))
    with pytest.raises(StoreError, match=r"cannot write run.surface.zarr: No space left on device; .*same command"):
        store.write(2, truth(store, 2))
    assert not store.done().any()
    assert store.read(2) is None


def _failing_for(name, failure):
    import zarr

    whole = zarr.Array.__setitem__
    return lambda array, part, values: failure() if array.basename == name else whole(array, part, values)


def test_the_dataset_is_what_plain_xarray_reads_at_any_time(store, path):
    def check():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plain = xarray.open_zarr(path).load()
        mine = Store(path).dataset()
        xarray.testing.assert_identical(plain, mine)
        assert mine["loss"].dims == ("alpha", "beta")
        assert mine["loss"].dtype == np.float64
        assert mine["center"].attrs["metrics"] == list(METRICS)
        return mine

    assert np.isnan(check()["loss"]).all()
    fill(store, [0, 4])
    assert check()["loss"].sel(alpha=-0.5, beta=-0.25).item() == truth(store, 0)[5, 1]
    fill(store)
    store.finish({"seconds": 3.5})
    assert check().attrs["gradvis"]["seconds"] == 3.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [16, 2**26])
def test_the_plane_comes_back_whole_in_its_dtype(path, monkeypatch, rng, dtype, chunk):
    monkeypatch.setattr(gradvis.layout, "_PLANE_CHUNK", chunk)  # bytes: several chunks for 7 parameters
    plane = Plane(
        rng.normal(size=7).astype(dtype), rng.normal(size=(2, 7)).astype(dtype), {"kind": "random", "seed": 3}
    )
    make(path, plane=plane)

    for finished in (False, True):
        if finished:
            fill(Store(path))
            Store(path).finish()
        back = Store(path).plane()
        assert back.origin.dtype == back.directions.dtype == dtype
        np.testing.assert_array_equal(back.origin, plane.origin)
        np.testing.assert_array_equal(back.directions, plane.directions)
        assert back.about == plane.about


@pytest.mark.parametrize("shape", [(7,), (4, 3, 5)])
def test_lines_and_volumes_too(path, shape):
    axes = {name: np.linspace(-1, 1, n) for name, n in zip(("alpha", "beta", "gamma"), shape, strict=False)}
    plane = Plane(np.zeros(4), np.eye(4)[: len(shape)])
    make(path, axes=axes, plane=plane, tile=(2,) * len(shape))
    store = Store(path)
    for tile in store.tiles.order():
        store.write(tile, np.stack([store.tiles.points(tile).sum(axis=1) + j for j in range(3)], axis=-1))
    store.write_center(np.zeros(3))
    store.finish()

    expected = sum(np.meshgrid(*axes.values(), indexing="ij"))
    np.testing.assert_array_equal(xarray.open_zarr(path)["loss"], expected + 1)


@pytest.mark.parametrize("bad", ["alpha", "center", "plane", "metric", "top/5", ".hidden", "", "loss"])
def test_metric_names_must_make_arrays(path, bad):
    with pytest.raises(StoreError, match="metrics need a name each"):
        make(path, metrics=("loss", bad))
    assert not path.exists()


def test_values_of_another_shape_are_refused(store):
    with pytest.raises(ValueError, match="reshape"):
        store.write(0, np.zeros((3, 3)))


# --- the same command again


def test_the_same_command_goes_on_with_the_tiles_as_they_were(store, path):
    fill(store, [0, 4])
    before = files(path)

    assert make(path, tile=(1, 1), provenance={"versions": {"gradvis": "1"}}) is None

    assert files(path) == before
    assert Store(path).tiles.tile == (2, 4)
    assert_holds(Store(path), [0, 4])


def test_a_finished_result_is_kept(store, path):
    fill(store)
    store.finish()
    before = files(path)

    make(path)

    assert files(path) == before


OTHER = {
    "samples is 100 there and 50 here, data differs": {
        "identity": {"samples": 50, "data": "f" * 32, "loss": {"name": "mse", "unit": "sample"}}
    },
    "name is mse there and l1 here": {
        "identity": {"samples": 100, "data": "0123456789abcdef", "loss": {"name": "l1", "unit": "sample"}}
    },
    "metrics is accuracy, loss, loss_stderr there and loss here": {"metrics": ("loss",)},
    "resolution is 5 x 9 there and 5 x 11 here": {"axes": {**AXES, "beta": np.linspace(-0.5, 1.5, 11)}},
    "span is -1:1, -0.5:1.5 there and -1:1, -1:1.5 here": {"axes": {**AXES, "beta": np.linspace(-1, 1.5, 9)}},
    "grid differs": {"axes": {**AXES, "beta": np.nextafter(AXES["beta"], 9)}},
    "seed is 0 there and 1 here": {"plane": Plane(PLANE.origin + 1, PLANE.directions, {"kind": "random", "seed": 1})},
    "plane differs": {"plane": Plane(PLANE.origin + 1, PLANE.directions, PLANE.about)},
    "it is a surface there and a game here": {"kind": "game"},
}


@pytest.mark.parametrize("sentence", OTHER)
def test_another_result_is_refused_with_what_differs(store, path, sentence):
    fill(store, [0])
    before = files(path)

    with pytest.raises(StoreError) as caught:
        make(path, **OTHER[sentence])

    expected = f"run.surface.zarr holds another result: {sentence}; give another --out, or --fresh to move it aside"
    assert str(caught.value) == expected
    assert files(path) == before


def test_fresh_moves_the_old_results_aside_and_never_deletes(store, path):
    fill(store, [0])
    kept = []
    for number in (1, 2, 3):
        kept.append(files(path))
        assert make(path, fresh=True) == path.with_name(f"run.surface.{number}.zarr")
        assert not Store(path).done().any()

    assert [files(path.with_name(f"run.surface.{number}.zarr")) for number in (1, 2, 3)] == kept
    assert_holds(Store(path.with_name("run.surface.1.zarr")), [0])


# --- folders that are not ours, or no longer whole


def test_what_is_no_result_is_left_alone(tmp_path, path):
    def refused(match, where=path, **changes):
        with pytest.raises(StoreError, match=match):
            make(where, **changes)

    refused("there is no folder .*absent to put run.zarr in", tmp_path / "absent" / "run.zarr")
    with pytest.raises(StoreError, match=r"there is no result at .*run.surface.zarr"):
        Store(path)
    assert not path.exists()

    path.write_text("mine")
    for fresh in (False, True):
        refused("run.surface.zarr is a file, not a result folder", fresh=fresh)
    assert path.read_text() == "mine"
    path.unlink()

    path.mkdir()
    (path / "thesis.tex").write_text("mine")
    for fresh in (False, True):
        refused("is a folder, but not a gradvis result", fresh=fresh)
    assert files(path) == {"thesis.tex": b"mine"}
    shutil.rmtree(path)

    xarray.Dataset({"x": ("n", np.zeros(3))}).to_zarr(path, zarr_format=3, consolidated=False)
    refused("is Zarr data, but not a gradvis result")

    assert os.listdir(tmp_path) == [path.name]  # nothing half-built is left


def test_an_empty_folder_is_as_good_as_none(path):
    path.mkdir()
    make(path)
    assert Store(path).tiles.count == 9


def test_a_newer_format_is_not_touched(store, path):
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["gradvis"]["format"] = 2
    (path / "zarr.json").write_text(json.dumps(metadata))

    for ask in (make, Store, read_about):
        with pytest.raises(StoreError, match=r"written by a newer gradvis \(format 2, this one reads 1\); upgrade"):
            ask(path)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_half_written_metadata_is_said_and_can_be_moved_aside(store, path, keep):
    fill(store, [0])
    whole = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(whole[: int(len(whole) * keep)])
    before = files(path)

    for ask in (make, Store, read_about):
        with pytest.raises(StoreError, match=r"run.surface.zarr is damaged \(its zarr.json is cut off"):
            ask(path)
    moved = make(path, fresh=True)

    assert files(moved) == before


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("harm", ["empty", "cut", "flipped", "missing"])
@pytest.mark.parametrize("tile", [0, 8])  # a whole one, and one cut by the end of the grid
def test_a_torn_tile_is_computed_again(store, path, name, harm, tile):
    fill(store)
    chunk = store._chunk(name, tile)
    whole = chunk.read_bytes()
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    chunk.write_bytes({"empty": b"", "cut": whole[:-9], "flipped": flipped, "missing": b""}[harm])
    if harm == "missing":
        chunk.unlink()

    assert Store(path).read(tile) is None
    assert not Store(path).mask()[store.tiles.slices(tile)].any()
    with pytest.raises(StoreError, match=r"lacks .* points"):
        Store(path).finish()
    make(path)
    assert_holds(Store(path), [other for other in range(store.tiles.count) if other != tile])
    fill(Store(path), [tile])
    assert_holds(Store(path))


@pytest.mark.parametrize(
    ("array", "read"),
    [
        ("loss", Store.dataset),
        ("plane/origin", Store.plane),
        ("plane/directions", Store.plane),
        ("alpha", Store.dataset),
    ],
)
def test_a_finished_result_that_is_torn_is_never_read_as_numbers(store, path, array, read):
    fill(store)
    store.finish()
    next((path / array).glob("c.*")).unlink()

    with pytest.raises(StoreError, match=r"run.surface.zarr is damaged .*missing"):
        read(Store(path))


# --- full disks and read-only folders


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_result_that_cannot_be_made_leaves_nothing_and_loses_nothing(store, path, monkeypatch, code):
    fill(store, [0])
    before = files(path.parent)

    for budget in range(12):
        with monkeypatch.context() as patch:
            _refuse_writes(patch, code, after=budget)
            with pytest.raises(
                StoreError, match=f"cannot write run.surface.zarr: {os.strerror(code)}; nothing that was"
            ):
                make(path, fresh=True)
        assert files(path.parent) == before
        assert sorted(os.listdir(path.parent)) == [path.name]


def test_a_full_disk_costs_the_tile_in_flight_alone(store, path, monkeypatch):
    fill(store, [0, 1])
    for budget in range(3):  # each of the three chunks of a tile
        with monkeypatch.context() as patch:
            _refuse_writes(patch, errno.ENOSPC, after=budget)
            with pytest.raises(StoreError, match="No space left on device; what is done is kept"):
                store.write(5, truth(store, 5))
        assert_holds(Store(path), [0, 1])
    fill(store)
    assert_holds(Store(path))


def test_a_full_disk_at_the_end_leaves_the_tiles(store, path, monkeypatch):
    fill(store)
    before = files(path.parent)
    for budget in range(0, 20, 3):
        with monkeypatch.context() as patch:
            _refuse_writes(patch, errno.ENOSPC, after=budget)
            with pytest.raises(
                StoreError, match=r"cannot make run.surface.zarr compact: No space left on device; what"
            ):
                store.finish()
        assert files(path.parent) == before
    store.finish()
    assert_holds(Store(path))


def _refuse_writes(patch, code, after):
    """From the `after`-th file on, the system refuses to write."""
    import zarr.storage._local as local

    numbers, put = itertools.count(), local._put

    def limited(*args, **kwargs):
        return put(*args, **kwargs) if next(numbers) < after else _raiser(OSError(code, os.strerror(code)))()

    patch.setattr(local, "_put", limited)


def _raiser(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.fixture
def small_disk(tmp_path):  # as root only
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def _fill_up(ballast):
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_real_full_disk(small_disk):
    path = small_disk / "run.zarr"
    make(path)
    store = Store(path)
    fill(store, [0, 1])
    _fill_up(small_disk / "ballast")

    with pytest.raises(StoreError, match=r"cannot write run.zarr: No space left on device"):
        store.write(5, truth(store, 5))
    with pytest.raises(StoreError, match=r"cannot write run.zarr: No space left on device"):
        make(path, fresh=True)
    assert_holds(Store(path), [0, 1])
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=r"cannot write run.zarr: Read-only file system"):
        store.write(5, truth(store, 5))
    with pytest.raises(StoreError, match=r"cannot write other.zarr: Read-only file system"):
        make(small_disk / "other.zarr")
    assert_holds(Store(path), [0, 1])
    xarray.open_zarr(path).load()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    (small_disk / "ballast").unlink()
    make(path)
    fill(Store(path))
    assert_holds(Store(path))


# --- compaction


def test_a_finished_result_is_few_files_with_the_same_bits(store, path):
    fill(store)
    tiled = store.dataset()
    before = sum(1 for _ in path.rglob("*"))

    store.finish({"seconds": 1.0})

    assert store.complete
    assert store.done().all()
    assert_holds(Store(path))
    compact = Store(path).dataset()
    for name in (*METRICS, "center"):
        np.testing.assert_array_equal(compact[name].values.view(np.uint64), tiled[name].values.view(np.uint64))
    assert sum(1 for _ in path.rglob("*")) < min(before, 40)
    assert os.listdir(path.parent) == [path.name]
    assert Store(path).identity == store.identity
    store.finish()  # again: nothing happens


def test_an_unfinished_result_is_not_marked_finished(store, path):
    fill(store, [0])
    with pytest.raises(StoreError, match="lacks 37 points"):
        store.finish()
    assert not read_about(path)["complete"]


def test_a_second_run_of_the_same_command_does_no_harm(store, path):
    second = Store(path)
    fill(store)
    store.finish()
    before = files(path)

    for tile in (0, 8):
        second.write(tile, truth(second, tile) + 1)
    second.write_center(np.zeros(3))
    second.finish()
    assert second.complete
    assert files(path) == before


def test_a_late_write_does_not_land_in_a_fresh_result(store, path):
    make(path, fresh=True)
    with pytest.raises(StoreError, match="was finished or moved by another run"):
        store.write(0, truth(store, 0))
    assert not Store(path).done().any()


def test_a_result_is_read_while_it_is_made_compact(store, path):
    fill(store)
    reader = Store(path)
    store.finish()

    xarray.testing.assert_identical(reader.dataset(), store.dataset())


# --- kills


CHANGES = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "open")


def any_change(event, args):
    return event in CHANGES and (event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR))


def killed(act, before, counts):
    """Run `act` in a fork, killed as by SIGKILL just before its n-th change to the disk; whether it came so far."""
    child = os.fork()
    if child == 0:
        numbers = itertools.count()
        sys.addaudithook(
            lambda *happens: counts(*happens) and next(numbers) == before and os.kill(os.getpid(), signal.SIGKILL)
        )
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_at_every(step, act, check, start, counts=any_change):
    """Look at what is left by a kill before every step-th change to the disk; how many there were."""
    for number in itertools.count():
        start()
        if not killed(act, number * step, counts):
            return number
        check()
    return None


def test_a_kill_anywhere_in_the_making_leaves_none_or_all(path):
    def start():
        shutil.rmtree(path.parent)
        path.parent.mkdir()

    def check():
        assert not path.exists() or Store(path).tiles.count == 9
        make(path)
        assert not Store(path).done().any()

    assert kill_at_every(5, lambda: make(path), check, start) >= 8


def test_a_kill_anywhere_in_writing_costs_that_tile_alone(store, path):
    fill(store, [0, 1])

    def start():
        for name in METRICS:
            store._chunk(name, 5).unlink(missing_ok=True)

    def check():
        make(path)
        assert_holds(Store(path), [0, 1])

    assert kill_at_every(1, lambda: store.write(5, truth(store, 5)), check, start) >= 6
    make(path)
    assert_holds(Store(path), [0, 1, 5])


@pytest.mark.parametrize("first", [make, Store, read_about])
def test_a_kill_anywhere_in_finishing_leaves_it_tiled_or_compact(store, path, tmp_path, first):
    fill(store)
    master = tmp_path / "master"
    shutil.copytree(path, master)
    states = []

    def start():
        for entry in tmp_path.iterdir():
            if entry != master:
                shutil.rmtree(entry)
        shutil.copytree(master, path)

    def check():
        states.append((path.exists(), path.with_name(f".{path.name}.old").exists()))
        first(path)
        assert_holds(Store(path))
        make(path)
        Store(path).finish()
        assert_holds(Store(path))
        assert Store(path).complete
        np.testing.assert_array_equal(Store(path).plane().origin, PLANE.origin)
        assert sorted(os.listdir(tmp_path)) == ["master", path.name]

    def renames(event, args):  # of whole folders
        return event == "os.rename" and Path(args[0]).parent == tmp_path

    finish = Store(path).finish
    assert kill_at_every(1, finish, check, start, renames) == 3
    assert states == [(True, False), (False, True), (True, True)]
    if first is make:
        assert kill_at_every(16, finish, check, start) >= 5


def test_a_result_left_aside_is_given_back_where_another_took_its_place(store, path):
    fill(store, [0])
    path.rename(path.with_name(f".{path.name}.old"))
    shutil.copytree(path.with_name(f".{path.name}.old"), path)

    make(path)

    assert_holds(Store(path.with_name("run.surface.1.zarr")), [0])


def _write_some(path, tiles):
    store = Store(path)
    for tile in tiles:
        store.write(tile, truth(store, tile))


def test_several_processes_write_at_once(path):
    make(path, tile=(1, 1))
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_write_some, args=(path, range(rank, 45, 3))) for rank in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert_holds(Store(path))


def _write_for_ever(path):
    store = Store(path)
    for tile in itertools.cycle(store.tiles.order()):
        store.write(tile, truth(store, tile))
        if tile == store.tiles.order()[9]:
            Path(f"{path}.started").touch()


def test_kill_9_of_a_writer_loses_at_most_the_tile_in_flight(path):
    make(path, tile=(1, 1))
    writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(path,))
    writer.start()
    while not Path(f"{path}.started").exists():
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()

    make(path)
    store = Store(path)
    number = int(store.done().sum())
    assert number >= 9
    assert_holds(store, store.tiles.order()[:number])
    _write_some(path, store.tiles.order()[number:])
    assert_holds(Store(path))


# --- two runs at once: the other one acts in the middle of what this one does


def meanwhile(monkeypatch, owner, name, act, late=False):
    """The next call of a function has `act` happen just before it, or just after."""
    usual = getattr(owner, name)

    def called(*args, **kwargs):
        monkeypatch.setattr(owner, name, usual)
        if not late:
            act()
        found = usual(*args, **kwargs)
        if late:
            act()
        return found

    monkeypatch.setattr(owner, name, called)


def finish_another(path):
    other = Store(path)
    fill(other)
    other.finish()


def test_two_runs_started_together_share_one_result(path, monkeypatch):
    def other():
        make(path)
        fill(Store(path), [0])

    meanwhile(monkeypatch, gradvis.layout, "seal", other)
    assert make(path) is None

    assert_holds(Store(path), [0])
    assert os.listdir(path.parent) == [path.name]


def test_another_result_that_appears_meanwhile_is_refused(path, monkeypatch):
    meanwhile(monkeypatch, gradvis.layout, "seal", lambda: make(path, identity={"samples": 1}))
    with pytest.raises(StoreError, match="holds another result: .*samples"):
        make(path)
    meanwhile(monkeypatch, gradvis.folder, "move_aside", lambda: make(path), late=True)
    with pytest.raises(StoreError, match="another run has made run.surface.zarr meanwhile; run the same command again"):
        make(path, fresh=True)
    assert sorted(os.listdir(path.parent)) == ["run.surface.1.zarr", path.name]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"), [(Store, "_grid"), (gradvis.layout, "create"), (gradvis.layout, "seal"), (Path, "exists")]
)
def test_a_result_finished_by_another_run_while_this_one_finishes_it(store, path, monkeypatch, owner, name, late):
    fill(store)
    other = Store(path)
    meanwhile(monkeypatch, owner, name, other.finish, late)
    store.finish()

    assert store.complete
    assert_holds(Store(path))
    assert os.listdir(path.parent) == [path.name]


def test_a_late_write_into_another_finished_result_is_an_error(store, path):
    make(path, fresh=True, identity={"samples": 1})
    finish_another(path)
    before = files(path)
    with pytest.raises(StoreError, match="was finished or moved by another run meanwhile; open it again"):
        store.write(0, truth(store, 0))
    assert files(path) == before


@pytest.mark.parametrize("tile", [0, 5])
def test_a_tile_that_goes_while_it_is_read_is_not_read_as_nan(store, path, monkeypatch, tile):
    fill(store)
    array = type(store._arrays["loss"])
    meanwhile(monkeypatch, array, "__getitem__", lambda: store._chunk("accuracy", tile).unlink())
    assert store.read(tile) is None
    store.write(tile, truth(store, tile))
    meanwhile(monkeypatch, array, "__getitem__", Store(path).finish)
    assert store.read(tile) is None
    before = files(path)
    store.mend()  # what it cannot read there is not its own
    assert files(path) == before


@pytest.mark.parametrize(("owner", "name"), [(gradvis.store, "read_about"), (Store, "_grid"), (Store, "read_center")])
@pytest.mark.parametrize("late", [False, True])
def test_a_surface_is_read_of_one_moment_whatever_another_run_does(store, path, monkeypatch, owner, name, late):
    fill(store, [0])
    meanwhile(monkeypatch, owner, name, lambda: finish_another(path), late)
    surface = open_surface(path)

    assert surface.about["complete"]
    assert surface.done.all()
    xarray.testing.assert_identical(surface.dataset, Store(path).dataset())

    meanwhile(monkeypatch, owner, name, lambda: make(path, fresh=True, identity={"samples": 1}), late)
    surface = open_surface(path)
    assert surface.about["identity"]["samples"] == 1
    assert not surface.done.any()
    assert np.isnan(surface.dataset["loss"]).all()


# --- what a command's status will be


def test_a_refusal_of_the_system_has_status_1_and_a_mistake_2(store, path, monkeypatch):
    def status(act):
        with pytest.raises(StoreError) as caught:
            act()
        return _verdict(pickle.loads(pickle.dumps(caught.value)))[1]  # as it comes from another rank

    assert status(lambda: make(path.parent / "absent" / "run.zarr")) == 2
    assert status(lambda: make(path, identity={"samples": 1})) == 2
    _refuse_writes(monkeypatch, errno.ENOSPC, after=0)
    assert status(lambda: make(path, fresh=True)) == 1
    assert status(lambda: store.write(0, truth(store, 0))) == 1


def test_the_root_of_the_file_system_is_no_result():
    for ask in (read_about, Store, make):
        with pytest.raises(StoreError, match=r"^/ is the root of the file system, not a result folder; give another"):
            ask("/")
