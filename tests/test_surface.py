"""Surfaces of closed forms: every number is known."""

import numpy as np
import pytest
import xarray

import gradvis
from gradvis import Plane, TaskError
from gradvis.backends.analytic import Quadratic, Rosenbrock
from gradvis.grid import grid
from gradvis.surface import surface_cost

SPECTRUM = np.array([4.0, 1.0, 0.5, 0.0, -2.0])


@pytest.fixture
def quadratic():
    return Quadratic(SPECTRUM, minimum=np.arange(5.0), offset=3.0, rotate_seed=1)


def closed_form(objective, plane, axes):
    """Offset + 1/2 c' (D H D') c about the plane's origin, point by point and axis by axis."""
    hessian = objective.hvp(plane.origin, np.eye(plane.d))
    gradient = objective.gradient(plane.origin)
    start = objective.measure(plane.origin)["loss"]
    values = np.empty([len(axis) for axis in axes])
    for index in np.ndindex(*values.shape):
        step = sum(axis[i] * direction for axis, i, direction in zip(axes, index, plane.directions, strict=True))
        values[index] = start + gradient @ step + step @ hessian @ step / 2
    return values


@pytest.mark.parametrize(
    ("k", "resolution", "span"),
    [(1, 7, 1.5), (2, (5, 9), [1.0, (-0.5, 2.0)]), (2, (9, 5), 0.3), (3, (3, 4, 5), [(0.0, 1.0), 2.0, (-3.0, -1.0)])],
)
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("tiles", [1, 4, 256])  # 256 make tiles of one point here, 4 ragged ones of 3 x 3
def test_the_surface_of_a_quadratic_is_the_closed_form(
    quadratic, tmp_path, monkeypatch, k, resolution, span, stored, tiles
):
    monkeypatch.setattr("gradvis.surface._TILES", tiles)
    monkeypatch.setattr("gradvis.surface._TILES_A_RANK", 1)
    plane = gradvis.random_plane(quadratic, k=k, normalize="none", seed=2)
    out = tmp_path / "run.surface.zarr" if stored else None

    surface = gradvis.loss_surface(quadratic, plane, span=span, resolution=resolution, out=out)

    loss = surface.dataset["loss"]
    axes = [loss[name].values for name in loss.dims]
    assert loss.dims == ("alpha", "beta", "gamma")[:k]
    assert loss.dtype == np.float64
    expected = closed_form(quadratic, plane, axes)
    np.testing.assert_allclose(loss.values, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(surface.center["loss"], quadratic.measure(plane.origin)["loss"], rtol=1e-14)
    assert surface.done.all()


def test_axes_are_in_the_stated_order():
    """alpha moves along the first direction, beta along the second; rows and columns are not swapped."""
    objective = Quadratic(np.array([2.0, 0.0]), minimum=np.zeros(2))  # theta_0 squared
    surface = gradvis.loss_surface(objective, Plane(np.zeros(2), np.eye(2)), span=[1.0, 5.0], resolution=[3, 5])

    loss = surface.dataset["loss"]
    assert loss.shape == (3, 5)
    np.testing.assert_array_equal(loss.sel(alpha=1.0), np.ones(5))
    np.testing.assert_array_equal(loss.sel(alpha=0.0), np.zeros(5))
    assert loss["beta"].values.tolist() == [-5, -2.5, 0, 2.5, 5]


def test_no_row_is_shifted_and_the_whole_span_is_evaluated():
    surface = gradvis.loss_surface(Rosenbrock(2), Plane(np.zeros(2), np.eye(2)), span=[2.0, (-1.0, 3.0)], resolution=21)
    x, y = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(-1, 3, 21), indexing="ij")
    np.testing.assert_allclose(surface.dataset["loss"], (1 - x) ** 2 + 100 * (y - x**2) ** 2, rtol=1e-12)


class Odd(Quadratic):
    """Gives out what other tools took for 'not computed'."""

    def evaluate(self, plane, coords):
        values = super().evaluate(plane, coords)
        x = np.asarray(coords)[:, 0]
        values[x == -1.0] = np.nan
        values[x == -0.5] = np.inf
        values[x == 0.5] = 0.0
        values[x == 1.0] = -7.0
        return values


@pytest.mark.parametrize("stored", [False, True])
def test_nan_inf_zero_and_negative_losses_are_results(tmp_path, stored):
    objective, out = Odd(np.ones(2)), tmp_path / "odd.zarr" if stored else None
    plane = Plane(np.ones(2), np.eye(2))

    surface = gradvis.loss_surface(objective, plane, resolution=5, out=out)

    rows = surface.dataset["loss"].values
    assert np.isnan(rows[0]).all()
    assert (rows[1] == np.inf).all()
    assert (rows[3] == 0).all()
    assert (rows[4] == -7).all()
    assert surface.done.all()


def test_a_kill_loses_nothing_whatever_the_values(tmp_path):
    """Half the points are NaN, inf, zero or negative: none of them is computed again, and all are seen."""
    plane, out = Plane(np.ones(2), np.eye(2)), tmp_path / "odd.zarr"
    with pytest.raises(TaskError):
        gradvis.loss_surface(Counting(None, fail_after=25), plane, resolution=5, out=out)
    assert gradvis.open(out).done.sum() == 24  # the centre was the first of the 25

    counting = Counting(None)
    gradvis.loss_surface(counting, plane, resolution=5, out=out)
    assert counting.points == 1 + 1  # the centre, to see that it is still the same

    counting = Counting(None)
    gradvis.loss_surface(counting, plane, resolution=5, out=out)
    assert counting.points == 1


class Counting(Odd):
    """Counts the points it is asked for, and fails at one of them if told to."""

    def __init__(self, like, fail_after=None):
        super().__init__(np.ones(2))
        self.points, self.fail_after = 0, fail_after

    @property
    def about(self):
        return {**super().about, "model": "Odd", "loss": "Odd"}

    def evaluate(self, plane, coords):
        self.points += len(coords)
        if self.fail_after is not None and self.points > self.fail_after:
            raise RuntimeError("the power went")
        return super().evaluate(plane, coords)


def test_an_interrupted_surface_is_gone_on_with(tmp_path):
    plane, out = Plane(np.ones(2), np.eye(2)), tmp_path / "run.zarr"
    with pytest.raises(TaskError, match="task \\d+ failed on rank 0 \\(host .*\\): RuntimeError: the power went"):
        gradvis.loss_surface(Counting(None, fail_after=60), plane, resolution=11, out=out)

    partial = gradvis.open(out)
    assert 0 < partial.done.sum() <= 60
    with xarray.open_zarr(out) as plain:
        assert np.isfinite(plain["loss"].values[partial.done & (plain["loss"].values == plain["loss"].values)]).any()
    rest = Counting(None)
    whole = gradvis.loss_surface(rest, plane, resolution=11, out=out)

    assert rest.points == 121 - partial.done.sum() + 1
    uninterrupted = gradvis.loss_surface(Counting(None), plane, resolution=11)
    np.testing.assert_array_equal(whole.dataset["loss"], uninterrupted.dataset["loss"])


def test_a_result_of_other_options_is_left_alone(quadratic, tmp_path):
    out = tmp_path / "run.zarr"
    first = gradvis.loss_surface(quadratic, gradvis.random_plane(quadratic, seed=0), resolution=5, out=out)

    with pytest.raises(ValueError, match="run.zarr holds another result: .*seed is 0 there and 1 here.*--fresh"):
        gradvis.loss_surface(quadratic, gradvis.random_plane(quadratic, seed=1), resolution=5, out=out)

    np.testing.assert_array_equal(gradvis.open(out).dataset["loss"], first.dataset["loss"])


@pytest.mark.parametrize("part", ["parameters", "buffers", "data", "samples"])
def test_a_result_of_another_model_or_other_data_is_left_alone(tmp_path, part):
    """Even where the loss at the centre is the same."""

    class Other(Counting):
        @property
        def about(self):
            return {**super().about, **({"samples": 7} if part == "samples" else {})}

        def fingerprint(self):
            return {**super().fingerprint(), **({part: "0" * 32} if part != "samples" else {})}

    plane, out = Plane(np.ones(2), np.eye(2)), tmp_path / "run.zarr"
    gradvis.loss_surface(Counting(None), plane, resolution=5, out=out)
    with pytest.raises(ValueError, match=f"holds another result: {part} (differs|is)"):
        gradvis.loss_surface(Other(None), plane, resolution=5, out=out)


def test_the_same_surface_is_gone_on_with_as_it_was_begun(tmp_path):
    """Micro-batches move the last bits: the rest is computed with those of the first run."""
    asked = []

    class Cut(Counting):
        def again(self, how):
            asked.append(dict(how))
            return super().again(how)

    class Finer(Cut):
        @property
        def how(self):
            return {**super().how, "micro_batch": 3}

    plane, out = Plane(np.ones(2), np.eye(2)), tmp_path / "run.zarr"
    with pytest.raises(TaskError):
        gradvis.loss_surface(Cut(None, fail_after=9), plane, resolution=5, out=out)
    gradvis.loss_surface(Finer(None), plane, resolution=5, out=out)
    assert asked == [Cut(None).how] * 2


def test_a_centre_that_is_not_a_number_is_the_same_again(tmp_path):
    plane, out = Plane(np.ones(2), np.eye(2)), tmp_path / "run.zarr"
    objective = Odd(np.ones(2))
    objective.evaluate = lambda plane, coords: np.full((len(coords), 1), np.nan)
    for _ in range(2):
        surface = gradvis.loss_surface(objective, plane, resolution=3, out=out)
        assert np.isnan(surface.center["loss"])


def test_a_result_whose_loss_code_has_changed_is_left_alone(tmp_path):
    class Louder(Counting):
        def evaluate(self, plane, coords):
            return super().evaluate(plane, coords) + 1e-6

    plane, out = Plane(np.ones(2), np.eye(2)), tmp_path / "run.zarr"
    gradvis.loss_surface(Counting(None), plane, resolution=5, out=out)
    with pytest.raises(ValueError, match="the loss at the centre was .* and is .* now"):
        gradvis.loss_surface(Louder(None), plane, resolution=5, out=out)


def test_fresh_moves_the_old_result_aside(quadratic, tmp_path):
    out = tmp_path / "run.zarr"
    for seed in (0, 1):
        gradvis.loss_surface(quadratic, gradvis.random_plane(quadratic, seed=seed), resolution=5, out=out, fresh=True)
    seeds = {gradvis.open(path).about["plane"]["seed"] for path in tmp_path.glob("*.zarr")}
    assert seeds == {0, 1}


def test_the_plane_comes_back_with_the_result(quadratic, tmp_path):
    plane = gradvis.random_plane(quadratic, k=2, seed=3)
    gradvis.loss_surface(quadratic, plane, resolution=3, out=tmp_path / "run.zarr")
    back = gradvis.open(tmp_path / "run.zarr").plane
    np.testing.assert_array_equal(back.origin, plane.origin)
    np.testing.assert_array_equal(back.directions, plane.directions)
    assert back.about == plane.about


def test_a_finished_result_is_few_files_and_plain_xarray_opens_it(quadratic, tmp_path, recwarn):
    surface = gradvis.loss_surface(quadratic, gradvis.random_plane(quadratic), out=tmp_path / "run.zarr")
    assert surface.dataset["loss"].shape == (51, 51)
    assert sum(path.is_file() for path in (tmp_path / "run.zarr").rglob("*")) <= 40
    with xarray.open_zarr(tmp_path / "run.zarr") as plain:
        np.testing.assert_array_equal(plain["loss"], surface.dataset["loss"])
    assert not recwarn.list


def test_the_centre_is_stored_where_the_grid_has_none(quadratic):
    plane = gradvis.random_plane(quadratic)
    surface = gradvis.loss_surface(quadratic, plane, resolution=4)
    assert 0 not in surface.dataset["alpha"]
    assert surface.center["loss"] == quadratic.measure(plane.origin)["loss"]


def test_progress_counts_points(quadratic):
    seen = []
    gradvis.loss_surface(
        quadratic,
        gradvis.random_plane(quadratic),
        resolution=(7, 5),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (0, 35)
    assert seen[-1] == (35, 35)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_cost_counts_every_point(quadratic):
    cost = surface_cost(quadratic, gradvis.random_plane(quadratic), resolution=(7, 5))
    assert cost.points == 35
    assert cost.seconds > 0
    assert cost.memory > 0


def test_methods_name_what_was_done(quadratic):
    text = gradvis.loss_surface(quadratic, gradvis.random_plane(quadratic, seed=11), resolution=5).methods()
    for part in ("5 x 5", "seed 11", "Li et al.", "1909.12108", "[-1, 1]"):
        assert part in text


@pytest.mark.parametrize("span", [(0.5, np.float32(1.0)), (np.float64(0.5), 1)])
def test_a_pair_of_numbers_of_any_kind_is_from_and_to(span):
    for points in grid(2, span, 3).values():
        assert points.tolist() == [0.5, 0.75, 1.0]


def test_an_odd_grid_has_its_centre_exactly():
    for size in range(3, 203, 2):
        assert 0.0 in grid(1, 1.0, size)["alpha"]
        assert 0.0 in grid(1, 0.7, size)["alpha"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resolution": 1}, "resolution must be a whole number, at least 2, but 1 came"),
        ({"resolution": 2.5}, "resolution must be a whole number"),
        ({"resolution": (3, 3, 3)}, "one for each of the 2 dimensions, but 3 came"),
        ({"span": 0}, "span must run from a number up to a larger one, but it runs from 0 to 0"),
        ({"span": (1.0, -1.0)}, "from 1 to -1"),
        ({"span": np.inf}, "span must run"),
    ],
)
def test_grids_that_cannot_be_are_refused(quadratic, options, match):
    with pytest.raises(ValueError, match=match):
        gradvis.loss_surface(quadratic, gradvis.random_plane(quadratic), **options)


def test_a_surface_needs_a_dimension(quadratic):
    with pytest.raises(ValueError, match="1, 2 or 3 dimensions, but this one has 0"):
        gradvis.loss_surface(quadratic, Plane(np.zeros(5), np.zeros((0, 5))))


def test_models_of_no_known_framework_are_refused():
    with pytest.raises(TypeError, match=r"torch.nn.Module or a keras.Model, but dict came"):
        gradvis.objective({}, data=[])
