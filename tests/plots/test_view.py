import numpy as np
import pytest

from gradvis.plots import caption
from gradvis.plots.caption import axis_label, metric_label
from gradvis.plots.view import central, view
from tests.plots.trial import ABOUT, ALPHA, BETA, bowl, tilted, trial


def test_marks_are_the_centre_and_the_minimum():
    centre, minimum = view(trial(bowl, center={"loss": 0.8125}), "loss").marks
    assert (centre.kind, centre.coords, centre.value) == ("centre", (0.0, 0.0), 0.8125)
    assert (minimum.kind, minimum.coords, minimum.value) == ("minimum", (0.5, 0.0), 0.05)
    assert (centre.text, minimum.text) == ("centre 0.8125", "minimum 0.05")


def test_centre_outside_the_grid_is_not_marked():
    seen = view(trial(bowl, axes=(ALPHA + 1.5, BETA)), "loss")
    assert [mark.kind for mark in seen.marks] == ["minimum"]


def test_other_metrics_are_marked_where_the_loss_is_lowest():
    seen = view(trial(bowl, accuracy=lambda a, b: a), "accuracy")
    (mark,) = seen.marks
    assert (mark.coords, mark.value, mark.text) == ((0.5, 0.0), 0.5, "lowest loss 0.5")


def test_diverged_is_done_and_not_finite():
    surface = trial(tilted)
    loss = surface.dataset["loss"].values
    loss[0, 0], loss[1, 2], loss[4, 8] = np.nan, np.inf, -np.inf
    surface.done[4, 8] = False
    seen = view(surface, "loss")
    assert sorted(zip(*np.nonzero(seen.diverged), strict=True)) == [(0, 0), (1, 2)]
    assert np.isnan(seen.values[[0, 1], [0, 2]]).all()
    assert np.isfinite(seen.values).sum() == seen.values.size - 2


def test_missing_points_take_their_nearest_computed_neighbour():
    done = np.zeros((5, 9), bool)
    done[0, 0] = done[4, 8] = True
    seen = view(trial(tilted, done=done), "loss")
    assert seen.values[1, 1] == seen.values[0, 0] == tilted(-1, -1.5)
    assert seen.values[3, 8] == seen.values[4, 8] == tilted(1, 1.5)
    assert not seen.diverged.any()
    assert seen.marks[-1].value == tilted(-1, -1.5)


def test_nothing_computed_and_unknown_metric_are_refused():
    with pytest.raises(ValueError, match="at least one computed point"):
        view(trial(tilted, done=np.zeros((5, 9), bool)), "loss")
    with pytest.raises(ValueError, match="metric must be one of loss, accuracy, but 'acuracy' came; did you mean"):
        view(trial(tilted, accuracy=tilted), "acuracy")


def test_central_slice_is_the_one_nearest_zero():
    gamma = np.array([-1.0, 0.25, 2.0])
    part, place = central(trial(lambda a, b, c: a + 10 * b + 100 * c, axes=(ALPHA, BETA, gamma)), "gamma")
    assert place == 0.25
    assert part.center == {}
    seen = view(part, "loss")
    assert seen.dims == ("alpha", "beta")
    np.testing.assert_allclose(seen.values, ALPHA[:, None] + 10 * BETA + 25)


def test_caption_says_it_all():
    assert caption(ABOUT, 0.379) == (
        "Loss surface of model.pt along random directions, filter-normalised, seed 7, biases and norm parameters "
        "fixed: cross entropy, mean over 1797 samples, float32, batch norm with its stored statistics; 37 % computed; "
        "gradvis 0.1.0."
    )


def test_caption_leaves_out_what_is_not_known():
    assert caption({}) == "Loss surface."
    assert caption({"plane": {"kind": "pca", "seed": None}}) == "Loss surface along principal directions."
    assert caption({"objective": {"batch_norm": None, "loss": "mse"}, "versions": {}}) == "Loss surface: mse."
    assert "loss, mean over 1 sample." in caption({"objective": {"samples": 1}})
    assert "made orthogonal" in caption({"plane": {"kind": "random", "orthogonal": True}})
    assert " 99 % computed" in caption({}, 0.9999)


def test_labels():
    assert axis_label({}, "gamma") == "γ · direction 3"
    assert axis_label({"plane": {"kind": "pca"}}, "alpha") == "α · principal direction 1"
    assert metric_label({}, "loss") == "loss"
    assert metric_label(ABOUT, "top_5") == "top 5"
