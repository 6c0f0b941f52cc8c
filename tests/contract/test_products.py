"""Products of every framework: how many vectors, in which pieces, of which losses. Dense references: test_contract."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import numpy as np
import pytest

import gradvis
from tests.contract.small_nets import NETS, D, X, Y

DATA = X, Y
OPERATORS = ("hessian", "ggn", "fisher")
LINE = X[:, :2], X[:, 2:3]  # for a linear map of two numbers to one


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]


@cache
def dense(net):
    """An objective that no test changes: graphs are traced once."""
    return gradvis.objective(net.dense(), DATA, "cross_entropy", micro_batch=12)


def close(found, wanted, tolerance):
    """To a tolerance relative to the norm of what is wanted."""
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


def curvature(x, factor=2.0):
    """Of squared errors of a linear map: every second derivative is known."""
    return factor * x.T @ x / len(x)


# ---------------------------------------------------------------------- vectors


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_vector_one_and_more_than_go_together_are_one_at_a_time(net, operator):
    asked, vectors = dense(net), np.random.default_rng(5).normal(size=(23, D))
    theta = asked.parameters()

    found = asked.hvp(theta, vectors, operator)

    alone = np.concatenate([asked.hvp(theta, vectors[row : row + 1], operator) for row in (0, 11, 22)])
    close(found[[0, 11, 22]], alone, 1e-13)
    none = asked.hvp(theta, vectors[:0], operator)
    assert (none.shape, none.dtype) == ((0, D), np.float64)
    assert asked.hvp(theta, vectors, operator).tobytes() == found.tobytes()
    close(asked.hvp(theta, 1e-9 * vectors, operator), 1e-9 * found, 1e-12)
    assert not asked.hvp(theta, 0 * vectors[:2], operator).any()


def test_vectors_of_another_shape_are_refused(net):
    theta = dense(net).parameters()

    for vectors in (theta, np.ones((2, D + 1)), np.ones((1, 2, D))):
        with pytest.raises(ValueError, match=rf"vectors of shape \(r, {D}\) were wanted, but \(.*came; .*vector\[None"):
            dense(net).hvp(theta, vectors)


# ---------------------------------------------------------------------- pieces


@pytest.mark.parametrize("operator", OPERATORS)
def test_products_do_not_depend_on_how_the_data_is_cut(net, operator):
    asked, vectors = dense(net), np.random.default_rng(5).normal(size=(2, D))
    theta, whole = asked.parameters(), asked.hvp(asked.parameters(), vectors, operator)

    for micro in (12, 5):
        cut = asked.again({**asked.how, "product_micro_batch": micro})
        assert cut.how["product_micro_batch"] <= micro
        close(cut.hvp(theta, vectors, operator), whole, 1e-13)
        close(sum(cut.shard(part, 2).hvp(theta, vectors, operator) for part in range(2)), whole, 1e-13)


def test_how_products_were_made_is_told_and_made_so_again(net):
    asked = dense(net)
    other = asked.again({**asked.how, "product_micro_batch": 5})
    theta, vectors = asked.parameters(), np.random.default_rng(5).normal(size=(10, D))

    assert asked.again(other.how).how == other.how != asked.how
    for earlier in (other, asked):
        for r in (1, 10):
            found = asked.again(earlier.how).hvp(theta, vectors[:r])
            assert found.tobytes() == earlier.hvp(theta, vectors[:r]).tobytes()


def test_tuning_gives_a_way_of_products_that_again_takes(net, monkeypatch):
    asked = gradvis.objective(net.linear(), LINE, "mse", micro_batch=8)
    theta, tried = asked.parameters(), []
    monkeypatch.setattr(
        import_module(net.derivatives),
        "fastest",
        lambda ways, run: tried.extend(ways) or min(ways, key=lambda way: run(way)[0, 0]),
    )

    how = asked.tune_products(theta, 2)

    assert asked.again(how).how == how
    assert set(how) == set(asked.how)
    assert len(tried) > 1
    assert min(way["product_micro_batch"] for way in tried) < 8
    close(asked.again(how).hvp(theta, np.eye(2)), curvature(LINE[0]), 1e-12)


# ---------------------------------------------------------------------- losses


def test_curvature_of_a_linear_map_is_known_however_small_it_is(net):
    scale = 1e-6
    asked = gradvis.objective(
        net.linear(), LINE, lambda outputs, targets: scale * net.squares(outputs, targets), micro_batch=8
    )
    theta, (x, y) = asked.parameters(), LINE
    slopes = scale * 2 * (x @ theta[:, None] - y) * x
    wanted = {"hessian": scale * curvature(x), "ggn": scale * curvature(x), "fisher": slopes.T @ slopes / len(x)}

    for operator in OPERATORS:
        close(asked.hvp(theta, np.eye(2), operator), wanted[operator], 1e-12)


def test_a_batch_loss_has_the_hessian_alone(net):
    x = X[:, :2]
    asked = gradvis.objective(
        net.linear(), [net.array(x[:9]), net.array(x[9:])], batch_loss=lambda model, batch: net.squares(model(batch))
    )
    theta = asked.parameters()

    close(asked.hvp(theta, np.eye(2)), curvature(x), 1e-12)
    for operator in ("ggn", "fisher"):
        with pytest.raises(ValueError, match=f"{operator}.*batch_loss hides them; give loss=f"):
            asked.hvp(theta, theta[None], operator)


def test_a_loss_of_means_has_no_fisher(net):
    asked = gradvis.objective(
        net.linear(), LINE, lambda outputs, targets: net.mean(net.squares(outputs, targets)), micro_batch=8
    )
    theta = asked.parameters()

    close(asked.hvp(theta, np.eye(2), "ggn"), curvature(LINE[0]), 1e-12)
    with pytest.raises(ValueError, match="needs the loss of each sample"):
        asked.hvp(theta, np.eye(2), "fisher")


# ---------------------------------------------------------------------- what cannot be


def test_what_has_no_second_derivative_is_said_in_a_sentence(net):
    asked = gradvis.objective(net.incomplete(), DATA, "cross_entropy")
    theta = asked.parameters()

    assert np.isfinite(asked.gradient(theta)).all()
    words = r"second derivatives was wanted, but (torch|TensorFlow) has none for \S+;"
    with pytest.raises(ValueError, match=words) as caught:
        asked.hvp(theta, theta[None])
    assert "\n" not in str(caught.value)
