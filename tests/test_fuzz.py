"""Whatever lies in a result folder or stands on the command line: a result or one line, never a traceback."""

import contextlib
import io
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.cli.door import enter
from gradvis.cli.main import surface_command
from gradvis.plane import Plane
from gradvis.schedule import Serial
from gradvis.surface import loss_surface

BOWL = """
import numpy as np
from gradvis.backends.analytic import Quadratic

class Bowl(Quadratic):
    def read(self, checkpoint):
        return np.zeros(3)

def objective(size: int = 3, scale: float = 1.0, mode="plain"):
    return Bowl(np.ones(3))
"""

FEW = settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small finished result."""
    path = tmp_path_factory.mktemp("fuzz") / "run.zarr"
    objective = Quadratic(np.arange(1.0, 4.0))
    plane = Plane(objective.parameters() + 0.5, np.eye(3)[:2], {"kind": "custom"})
    loss_surface(objective, plane, resolution=3, out=path, scheduler=Serial())
    return path


@contextlib.contextmanager
def copied(whole):
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(whole, Path(folder, "run.zarr")))


def assert_opens_or_says_why(path):
    surface, said = None, ""
    try:
        surface = gradvis.open(path)
    except ValueError as error:
        said = str(error)
    assert surface is not None or "run.zarr" in said
    assert "\n" not in said
    assert surface is None or surface.dataset["loss"].shape == surface.done.shape


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


@FEW
@given(drawn=st.data())
def test_a_harmed_file_gives_a_result_or_one_line(whole, drawn):
    with copied(whole) as path:
        file = drawn.draw(st.sampled_from(files(path)))
        content = bytearray(file.read_bytes())
        harm = drawn.draw(st.sampled_from(["cut", "flip", "delete", "folder"]))
        if harm == "cut":
            file.write_bytes(content[: drawn.draw(st.integers(0, len(content)))])
        elif harm == "flip":
            for _ in range(drawn.draw(st.integers(1, 4))):
                content[drawn.draw(st.integers(0, len(content) - 1))] ^= drawn.draw(st.integers(1, 255))
            file.write_bytes(content)
        else:
            file.unlink()
            if harm == "folder":
                file.mkdir()
        assert_opens_or_says_why(path)


@FEW
@given(content=JSON | st.fixed_dictionaries({"attributes": st.fixed_dictionaries({"gradvis": JSON})}))
def test_any_json_in_its_place_gives_one_line(whole, content):
    with copied(whole) as path:
        (path / "zarr.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"^run.zarr (is|holds|was) [^\n]*$"):
            gradvis.open(path)


@FEW
@given(name=st.sampled_from(["format", "kind", "complete", "identity", "plane", "axes", "metrics", "tile"]), value=JSON)
def test_any_value_of_what_it_says_of_itself_gives_a_result_or_one_line(whole, name, value):
    with copied(whole) as path:
        metadata = json.loads((path / "zarr.json").read_bytes())
        metadata["attributes"]["gradvis"][name] = value
        (path / "zarr.json").write_text(json.dumps(metadata))
        assert_opens_or_says_why(path)


def test_json_without_bottom_gives_one_line(whole):
    for text in ("[" * 100_000, '{"attributes": {"gradvis": {"format": Infinity}}}'):
        with copied(whole) as path:
            (path / "zarr.json").write_text(text)
            with pytest.raises(ValueError, match="run.zarr is damaged"):
                gradvis.open(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("options")
    (place / "bowl.py").write_text(BOWL)
    np.save(place / "bowl.npy", np.zeros(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def command(*arguments):
    """The status of the command in this process, and what it says on standard error."""
    handler, err = signal.getsignal(signal.SIGTERM), io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            enter(surface_command, "gradvis-surface", list(arguments))
    except SystemExit as ended:
        return ended.code, err.getvalue()
    finally:
        signal.signal(signal.SIGTERM, handler)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.text("0123456789.,:-+einf ", max_size=8)
NEAR = {
    "--span": NUMBERS,
    "--resolution": NUMBERS,
    "--plot": st.text("pngsvdfhtml,o ", max_size=8),
    "--metrics": st.text("acurymse,l_", max_size=8),
    "--objective-arg": st.builds("{}={}".format, st.sampled_from(["size", "scale", "mode", "x", ""]), TEXT),
    "--dims": NUMBERS,
    "--seed": NUMBERS,
    "--plane": TEXT,
    "--key": TEXT,
}


@FEW
@given(drawn=st.data(), option=st.sampled_from(sorted(NEAR)))
def test_any_text_for_an_option_gives_status_0_or_2_and_no_traceback(folder, drawn, option):
    text = drawn.draw(NEAR[option] | TEXT)
    status, err = command("bowl.npy", "--objective", "bowl.py:objective", "--dry-run", "--quiet", f"{option}={text}")
    errors = [line for line in err.splitlines() if line.startswith("gradvis-surface: error: ")]
    assert (status, len(errors)) in {(0, 0), (2, 1)}, err
    assert "Traceback" not in err
    assert "--debug shows" not in err
    sys.modules.pop("bowl", None)
