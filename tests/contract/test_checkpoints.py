"""Checkpoints of every framework: what is in them comes out as it went in, or one line says why not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import gradvis
from gradvis.objective import NotFiniteError
from tests.contract.checkpoint_nets import CLASSES, INPUTS, NETS, SAMPLES


@cache
def made(name):
    """A net with its objective: TensorFlow traces a graph once."""
    net, rng = NETS[name](), np.random.default_rng(4)
    data = rng.normal(size=(SAMPLES, INPUTS)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)
    return net, gradvis.objective(net.model(), data, "cross_entropy")


@pytest.fixture(params=NETS)
def both(request):
    return made(request.param)


@pytest.fixture
def net(both):
    return both[0]


@pytest.fixture
def objective(both):
    return both[1]


def vector(objective, state):
    return np.concatenate([np.asarray(state[block.name], "float32").ravel() for block in objective.space])


class Place:
    """A path of the user's own kind."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.mark.parametrize("form", range(5))
def test_every_form_under_a_path_of_any_kind_is_the_state_that_was_saved(net, objective, tmp_path, form):
    path = tmp_path / net.forms[form % len(net.forms)]
    model = net.model(seed=1)
    net.write(model, path)
    before, wanted = objective.parameters(), vector(objective, net.state(model))

    for each in (path, str(path), Place(path)):
        np.testing.assert_array_equal(objective.read(each), wanted)
    there = objective.at(path)
    assert there.measure(wanted) == objective.at(model).measure(wanted)  # with its own statistics
    assert there.measure(wanted) != objective.measure(wanted)
    np.testing.assert_array_equal(objective.parameters(), before)
    assert net.backend.objective_name(path) is None


def test_a_model_and_values_without_a_file_are_checkpoints(net, objective):
    model = net.model(seed=1)
    state = net.state(model)
    named = dict(zip(state, net.given(state).values(), strict=True)) if net.kernel == "0.weight" else state

    for each in (model, net.given(state), named):
        np.testing.assert_array_equal(objective.read(each), vector(objective, state))


def test_a_key_chooses_among_several_states_and_none_or_another_is_one_line(net, objective, tmp_path):
    models = {"G": net.model(seed=1), "D": net.model(seed=2)}
    net.several(models, tmp_path / "both.pt")
    chosen = net.backend.Checkpoint

    for key, model in models.items():
        found = objective.read(chosen(tmp_path / "both.pt", key))
        np.testing.assert_array_equal(found, vector(objective, net.state(model)))
    with pytest.raises(ValueError, match=r"several states of .*both.pt fit the model \((G, D|D, G)\); give one as key"):
        objective.read(tmp_path / "both.pt")
    with pytest.raises(ValueError, match=r"(a state F was wanted|nothing was saved under F), but .*(G, D|D, G)"):
        objective.read(chosen(tmp_path / "both.pt", "F"))


@pytest.mark.parametrize("form", range(5))
def test_another_architecture_is_refused_in_one_line(net, objective, tmp_path, form):
    path = tmp_path / net.forms[form % len(net.forms)]
    net.write(net.model(width=4), path)
    words = r"does not (fit|hold)|of another architecture"
    for ask in (objective.read, objective.at, objective.reader):
        with pytest.raises(ValueError, match=words) as told:
            ask(path)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named_but_can_be_read_in_parts(net, objective, bad):
    state = net.state(net.model(seed=1))
    state[net.kernel].flat[1] = state[net.bias].flat[0] = bad
    first = min((net.kernel, net.bias), key=[*state].index)
    with pytest.raises(NotFiniteError, match=rf"finite weights .* {first} holds NaN or inf \(2 of {len(state)} \w+ do"):
        objective.read(net.given(state))
    with pytest.raises(NotFiniteError, match="give a checkpoint from before training diverged"):
        objective.at(net.given(state))

    parts = objective.reader(net.given(state))
    at = next(block.slice.start for block in objective.space if block.name == net.kernel)
    np.testing.assert_array_equal(parts.read(slice(at, at + 3)), state[net.kernel].flat[:3])


def test_a_statistic_may_be_infinite_but_not_nan(net, objective):
    state = net.state(net.model(seed=1))
    state[net.variance][0] = np.inf
    assert np.isfinite(objective.at(net.given(state)).measure(objective.parameters())["loss"])
    state[net.variance][0] = np.nan
    with pytest.raises(NotFiniteError, match=f"{net.variance} holds NaN"):
        objective.at(net.given(state))


def test_quantised_weights_are_no_weights(net, objective):
    state = net.state(net.model(seed=1))
    state[net.kernel] = state[net.kernel].astype("int8")
    for ask in (objective.read, objective.at, objective.reader):
        with pytest.raises(ValueError, match=rf"{net.kernel}'? (is|as) int8, (not|the model as) float32"):
            ask(net.given(state))


@pytest.mark.parametrize("dtype", range(4))
def test_a_state_of_another_precision_is_read(net, objective, dtype):
    model = net.model(seed=1)
    low, values = net.lowered(model, net.dtypes[dtype])
    theta = vector(objective, values)

    np.testing.assert_array_equal(objective.read(low), theta)
    np.testing.assert_array_equal(objective.reader(low).read(slice(0, len(theta))), theta)
    exact = net.given({name: value.astype(net.state(model)[name].dtype) for name, value in values.items()})
    assert objective.at(low).measure(theta) == objective.at(exact).measure(theta)


# --- Saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", range(2))
def test_what_is_saved_comes_back_with_the_name_of_its_objective(net, objective, tmp_path, form):
    path = tmp_path / net.saved[form % len(net.saved)]
    model = net.model(seed=1)
    gradvis.save_checkpoint(path, model, objective="net.py:objective", step=3, lr=0.1, note="x")

    np.testing.assert_array_equal(objective.read(path), vector(objective, net.state(model)))
    assert net.backend.objective_name(Place(path)) == "net.py:objective"
    assert net.extra(path) == {"step": 3, "lr": 0.1, "note": "x"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_could_not_be_read_back_is_not_saved_and_the_earlier_file_stays(net, tmp_path):
    path = tmp_path / net.saved[0]
    gradvis.save_checkpoint(path, net.model())
    before = path.read_bytes()
    value, error, words = net.unsavable
    with pytest.raises(error, match=words):
        gradvis.save_checkpoint(path, net.model(seed=5), generator=value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_that_no_command_could_use_is_not_saved(net, tmp_path):
    path, (other, words) = tmp_path / net.saved[0], net.no_such
    with pytest.raises(ValueError, match="named as FILE.py:NAME, but 'lenet' came"):
        gradvis.save_checkpoint(path, net.model(), "lenet")
    with pytest.raises(ValueError, match=r"only a .py file of the folder .* give lenet.py:f"):
        gradvis.save_checkpoint(path, net.model(), "a/lenet.py:f")
    with pytest.raises(ValueError, match=f"{words}, but .*{other} came; name it"):
        gradvis.save_checkpoint(tmp_path / other, net.model())
    with pytest.raises(FileNotFoundError, match="gone/model"):
        gradvis.save_checkpoint(tmp_path / "gone" / net.saved[0], net.model())
    assert not list(tmp_path.iterdir())


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", range(5))
def test_a_file_cut_anywhere_is_refused_in_one_line(net, objective, tmp_path, form):
    path = tmp_path / net.forms[form % len(net.forms)]
    net.write(net.model(seed=1), path)
    content = path.read_bytes()
    for at in np.linspace(0, 1, 12, endpoint=False):
        path.write_bytes(content[: int(at * len(content))])
        with pytest.raises(ValueError, match=path.name.partition(".")[0]) as told:
            objective.read(path)
        assert "\n" not in str(told.value)
