"""Spectra against operators that are known exactly."""

import doctest
import warnings

import numpy as np
import pytest
import xarray

import gradvis
from gradvis import probing
from gradvis.backends.analytic import Quadratic, Rosenbrock
from gradvis.consistency import Check, check_curvature
from gradvis.eigenpairs import hessian_eigenpairs, hessian_plane
from gradvis.notes import Note
from gradvis.schedule import TaskError
from gradvis.spectrum import hessian_spectrum, spectrum_cost
from gradvis.store import StoreError

VALUES = np.concatenate([np.linspace(-0.5, 1.0, 60), [5.0, 8.0, 13.0]])


@pytest.fixture
def bowl():
    return Quadratic(VALUES, minimum=np.ones(VALUES.size), offset=1.0, rotate_seed=3).at(np.full(VALUES.size, 0.9))


def test_doctests_hold():
    assert doctest.testmod(probing).failed == 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_probes_that_span_the_space_leave_nothing_to_chance(scale):
    found = hessian_spectrum(Quadratic(scale * VALUES, minimum=np.ones(VALUES.size), rotate_seed=3), probes=1000)

    assert found.nodes.shape == (VALUES.size, VALUES.size)
    np.testing.assert_allclose(found.trace, scale * VALUES.sum(), rtol=1e-11)
    np.testing.assert_allclose(found.frobenius, scale * np.linalg.norm(VALUES), rtol=1e-11)
    assert found.trace_stderr == found.frobenius_stderr == 0
    between = scale * np.array([-0.51, 0.4, 3.0, 6.0, 14.0])
    np.testing.assert_allclose(found.cumulative(between), [(VALUES * scale <= x).mean() for x in between], atol=1e-10)


def test_trace_and_norm_lie_within_their_errors(bowl):
    found = hessian_spectrum(bowl, probes=20, steps=30, seed=4)

    assert 0 < found.trace_stderr < 0.2 * VALUES.sum()
    assert abs(found.trace - VALUES.sum()) < 3 * found.trace_stderr
    assert abs(found.frobenius - np.linalg.norm(VALUES)) < 3 * found.frobenius_stderr


def test_the_moments_of_a_probe_are_those_of_the_operator(bowl):
    found = hessian_spectrum(bowl, probes=3, steps=4, seed=7)
    starts = probing.Probes(VALUES.size, 3, 4, 7, True, "float64", 0, "largest").starts([0, 1, 2])
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)

    vectors = starts
    for power in range(8):
        exact = np.einsum("rd,rd->r", starts, vectors)
        mine = np.einsum("rm,rm->r", found.weights, found.nodes**power)
        np.testing.assert_allclose(mine, exact, rtol=1e-11, atol=1e-11 * 13.0**power)
        vectors = vectors @ bowl.hessian
    beyond = np.einsum("rd,rd->r", starts, vectors)
    assert np.abs(np.einsum("rm,rm->r", found.weights, found.nodes**8) / beyond - 1).max() > 1e-6


@pytest.mark.parametrize(
    ("which", "wanted"),
    [("largest", VALUES[[62, 61, 60]]), ("smallest", VALUES[[2, 1, 0]]), ("both", VALUES[[62, 61, 60, 2, 1, 0]])],
)
def test_pairs_come_from_the_same_runs(bowl, which, wanted):
    pairs = hessian_spectrum(bowl, probes=2, steps=63, top=3, which=which).pairs

    np.testing.assert_allclose(pairs.values, wanted, atol=1e-9)
    np.testing.assert_allclose(pairs.vectors @ bowl.hessian, pairs.values[:, None] * pairs.vectors, atol=1e-8)
    assert pairs.converged.all()


def test_pairs_that_have_not_converged_say_so(bowl):
    pairs = hessian_spectrum(bowl, probes=1, steps=6, top=4).pairs

    true = np.linalg.norm(pairs.vectors @ bowl.hessian - pairs.values[:, None] * pairs.vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals, true, rtol=1e-6, atol=1e-12)
    assert not pairs.converged.all()


def test_with_a_tolerance_pairs_are_gone_on_with(bowl, tmp_path):
    for options in ({}, {"out": tmp_path / "a.spectrum.zarr"}):
        pairs = hessian_spectrum(bowl, probes=1, steps=6, top=4, tol=1e-9, **options).pairs

        np.testing.assert_allclose(pairs.values, VALUES[[62, 61, 60, 59]], atol=1e-9)
        assert pairs.converged.all()
        assert pairs.residuals.max() < 13 * 1e-9


def test_a_probe_is_the_same_whoever_runs_it():
    probes = probing.Probes(50, 7, 5, 3, True, "float64", 0, "largest")

    np.testing.assert_array_equal(probes.starts([2, 5]), np.concatenate([probes.starts([2]), probes.starts([5])]))
    assert np.abs(probes.starts([0])).tolist() == [[1.0] * 50]


def test_blocks_have_something_for_each_rank_and_fit_in_memory():
    probes = probing.Probes(1000, 10, 80, 3, True, "float32", 0, "largest")
    one = 80 * 1000 * 4

    assert [len(block) for block in probes.blocks(range(10), 1, 100 * one)] == [5, 5]
    assert [len(block) for block in probes.blocks(range(10), 4, 100 * one)] == [3, 3, 3, 1]
    assert [len(block) for block in probes.blocks(range(10), 1, 2 * one)] == [2] * 5
    assert [len(block) for block in probes.blocks(range(3), 1, 0)] == [1] * 3


def test_a_killed_run_goes_on_with_the_missing_probes(bowl, tmp_path):
    whole = hessian_spectrum(bowl, probes=12, steps=20, top=3, out=tmp_path / "whole.spectrum.zarr")
    calls = []

    class Dying(Quadratic):
        def hvp(self, theta, vectors, operator="hessian"):
            calls.append(len(vectors))
            if len(calls) == 30 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                raise RuntimeError("no such luck")
            return super().hvp(theta, vectors, operator)

    dying = Dying(hessian=bowl.hessian, minimum=np.ones(VALUES.size), offset=1.0).at(bowl.parameters())
    place = tmp_path / "cut.spectrum.zarr"
    with pytest.raises(TaskError, match="no such luck") as raised:
        hessian_spectrum(dying, probes=12, steps=20, top=3, out=place)
    assert "the same command goes on with them" in raised.value.__notes__[0]
    part = gradvis.open(place)
    assert part.done.tolist() == [True] * 5 + [False] * 7
    assert np.isfinite(part.trace)

    calls.clear()
    found = hessian_spectrum(dying, probes=12, steps=20, top=3, out=place)

    assert sum(calls) == 1 + 7 * 20  # what is known of the centre, and the missing probes
    for name in ("node", "weight", "residual", "center"):
        np.testing.assert_array_equal(found.dataset[name].values, whole.dataset[name].values)
    np.testing.assert_array_equal(found.pairs.vectors, whole.pairs.vectors)


def test_a_finished_result_is_read_and_nothing_is_computed(bowl, tmp_path):
    place = tmp_path / "a.spectrum.zarr"
    first = hessian_spectrum(bowl, probes=2, steps=20, top=3, out=place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}

    again = hessian_spectrum(bowl, probes=2, steps=20, top=3, out=place)

    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert len([path for path in before if path.is_file()]) <= 40
    np.testing.assert_array_equal(again.pairs.values, first.pairs.values)
    with xarray.open_zarr(place) as opened:
        np.testing.assert_array_equal(opened["node"].values, first.nodes)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"top": 2}, "top is 3 there and 2 here"),
        ({"steps": 9}, "steps is"),
    ],
)
def test_another_result_is_left_alone(bowl, tmp_path, other, words):
    options = {"probes": 2, "steps": 10, "top": 3, "out": tmp_path / "a.spectrum.zarr"}
    hessian_spectrum(bowl, **options)
    with pytest.raises(StoreError, match=words):
        hessian_spectrum(bowl, **options | other)


def test_a_block_has_its_own_spectrum(bowl):
    part = Rosenbrock(6)
    theta = part.parameters()
    block = part.restrict("*")
    dense = part.hvp(theta, np.eye(6))

    pairs = hessian_spectrum(block, probes=6, steps=6, top=6).pairs

    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(dense)[::-1], rtol=1e-9)


def test_parameters_that_are_not_used_are_counted_out_loud():
    flat = Quadratic([3.0, 2.0, 0.0, 0.0, 0.0], minimum=np.ones(5), offset=1.0)
    with pytest.warns(Note, match="3 of 5 parameters have no curvature"):
        found = hessian_spectrum(flat, probes=5)

    assert found.center["unused"] == 3
    assert found.cumulative(np.array([1e-9])).item() == pytest.approx(0.6)


def test_a_basis_that_does_not_fit_is_not_kept(bowl):
    with pytest.warns(Note, match="three vectors are kept"):
        found = hessian_spectrum(bowl, probes=2, steps=30, memory=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = hessian_spectrum(bowl, probes=2, steps=30)

    np.testing.assert_allclose(found.trace, whole.trace, rtol=1e-10)
    x = np.linspace(-1, 14, 200)
    assert np.abs(found.cumulative(x) - whole.cumulative(x)).max() < 0.05
    with pytest.raises(ValueError, match="without eigenpairs"):
        _ = found.pairs


def test_storage_in_float32_costs_no_more_than_its_digits(bowl):
    wide, narrow = (hessian_spectrum(bowl, probes=2, steps=30, storage=kind) for kind in ("float64", "float32"))

    np.testing.assert_allclose(narrow.trace, wide.trace, rtol=1e-6)
    np.testing.assert_allclose(narrow.pairs.values[:3], wide.pairs.values[:3], rtol=1e-6)
    assert np.any(narrow.nodes != wide.nodes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probes": 0}, "probes must be a whole number, 1 or more, but 0 came"),
        ({"steps": 0}, "steps must be"),
        ({"which": "top"}, "which must be one of largest, smallest, both, but 'top' came"),
        ({"reorthogonalise": "twice"}, "reorthogonalise must be full or none"),
        ({"storage": "float16"}, "storage must be float32 or float64"),
        ({"operator": "jacobian"}, "jacobian"),
    ],
)
def test_bad_arguments_are_told(bowl, options, words):
    with pytest.raises((ValueError, TaskError), match=words):
        hessian_spectrum(bowl, **options)


def test_another_spectrum_is_refused_with_each_difference_once(bowl, tmp_path):
    out = tmp_path / "a.spectrum.zarr"
    hessian_spectrum(bowl, 2, 5, out=out)

    with pytest.raises(StoreError, match=r"holds another result: probes is 2 there and 3 here; give"):
        hessian_spectrum(bowl, 3, 5, out=out)
    with pytest.raises(StoreError, match=r"holds another result: operator is hessian there and ggn here; give"):
        hessian_spectrum(bowl, 2, 5, operator="ggn", out=out)


def test_a_result_that_only_says_it_is_a_spectrum_is_damaged(bowl, tmp_path):
    out = tmp_path / "a.zarr"
    gradvis.loss_surface(bowl, gradvis.random_plane(bowl, k=1), resolution=5, out=out)
    file = out / "zarr.json"
    file.write_text(file.read_text().replace('"kind": "surface"', '"kind": "spectrum"'))

    with pytest.raises(StoreError, match="a spectrum has node, weight, residual"):
        gradvis.open(out)


def test_a_point_where_the_loss_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a finite loss was wanted"):
        hessian_spectrum(Quadratic([1.0, 2.0], offset=np.nan))


def test_progress_counts_products(bowl):
    seen = []
    hessian_spectrum(bowl, probes=7, steps=10, top=0, progress=lambda done, total: seen.append((done, total)))

    assert seen[-1] == (70, 70)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_cost_is_told_before(bowl):
    cost = spectrum_cost(bowl, 10, 20)

    assert cost.points == 200
    assert cost.memory > 20 * 5 * VALUES.size * 8
    assert cost.seconds > 0


def test_eigenpairs_go_on_from_a_spectrum(bowl):
    rough = hessian_spectrum(bowl, probes=1, steps=12, top=3)
    pairs = hessian_eigenpairs(bowl, 3, tol=1e-10, start=rough)

    np.testing.assert_allclose(pairs.values, VALUES[[62, 61, 60]], atol=1e-9)
    assert pairs.converged.all()


def test_the_smallest_eigenvalue_of_an_indefinite_hessian_is_found(bowl):
    pairs = hessian_eigenpairs(bowl, 1, "smallest", tol=1e-9)

    np.testing.assert_allclose(pairs.values, [-0.5], atol=1e-9)


@pytest.mark.parametrize("kind", ["top", "ends", "gradient"])
def test_planes_are_spanned_by_eigenvectors_as_they_are(bowl, kind):
    plane = hessian_plane(bowl, kind, tol=1e-9)
    vectors = np.linalg.eigh(bowl.hessian)[1].T[::-1]
    slope = bowl.gradient(bowl.parameters())
    wanted = {"top": vectors[:2], "ends": vectors[[0, -1]], "gradient": np.stack([slope, vectors[0]])}[kind]

    np.testing.assert_allclose(np.linalg.norm(plane.directions, axis=1), 1.0, rtol=1e-12)
    cosines = np.einsum("kd,kd->k", plane.directions, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))
    np.testing.assert_allclose(np.abs(cosines), 1.0, atol=1e-8)
    np.testing.assert_array_equal(plane.origin, bowl.parameters())
    loss = bowl.measure(bowl.parameters())["loss"]
    np.testing.assert_allclose(0.5 * 13.0 * plane.about["span"] ** 2, 9 * loss, rtol=1e-6)
    axes = gradvis.loss_surface(bowl, plane, resolution=3).dataset
    assert [axes[name].values[-1] for name in ("alpha", "beta")] == [plane.about["span"]] * 2


def test_a_line_and_a_volume_of_eigenvectors(bowl):
    assert hessian_plane(bowl, k=1).k == 1
    assert hessian_plane(bowl, k=3).k == 3
    with pytest.raises(ValueError, match="two dimensions"):
        hessian_plane(bowl, "ends", 3)
    with pytest.raises(ValueError, match="of kind top, ends or gradient"):
        hessian_plane(bowl, "sharp")


def test_checks_pass_on_what_is_right(bowl):
    rows = check_curvature(bowl, hessian_eigenpairs(bowl, 2, "both", tol=1e-9))

    assert [row.name for row in rows if not row.passed] == []
    assert sum("second difference" in row.name for row in rows) == 4
    assert sum("dense matrix" in row.name for row in rows) == 5


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        (lambda h, v: 1.01 * v @ h, "second difference"),
        (lambda h, v: v @ (h + np.triu(np.full(h.shape, 1e-6), 1)), "symmetry"),
        (lambda h, v: v @ h * (1 + 1e-9 * np.random.default_rng().random()), "twice"),
        (lambda h, v: v @ (h + np.eye(len(h))), "v'Hv"),
    ],
)
def test_checks_fail_on_what_is_wrong(bowl, wrong, seen):
    class Wrong(Quadratic):
        def hvp(self, theta, vectors, operator="hessian"):
            return wrong(self.hessian, vectors)

    other = Wrong(hessian=bowl.hessian, minimum=np.ones(VALUES.size), offset=1.0).at(bowl.parameters())
    pairs = hessian_eigenpairs(bowl if seen == "v'Hv" else other, 2, tol=1e-5)
    failed = [row.name for row in check_curvature(other, pairs) if not row.passed]
    assert any(seen in name for name in failed), failed


def test_no_number_passes_no_check():
    assert not Check("a", np.nan, 0.0, 1.0).passed
    assert Check("a", 0.5, 0.0, 1.0).passed
