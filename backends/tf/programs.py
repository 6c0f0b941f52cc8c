"""Networks that come as files: Keras models, which safe mode loads without running their code, and SavedModels.

A SavedModel is a program, so it needs the user's trust. What it computes is taken as a graph in which the variables
are inputs, so that derivatives flow through and nothing of it is written.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import h5py  # type: ignore[import-untyped]
import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from gradvis.backends.formats import ARCHIVE, HDF5, is_keras_folder, is_saved_model
from gradvis.notes import note

_SAVED_MODEL = "a SavedModel"
_MODEL = "a Keras model"
_LAMBDA = "a Keras model with a Lambda layer"
_CONFIG = "config.json"
_LAMBDA_MARKS = ("Lambda", "__lambda__")  # class names in a config
_UNKNOWN = re.compile(r"(?:Could not (?:locate|find|deserialize) (?:class |function )?|Unknown [\w ]+: )'?([^' .]+)")


def program_kind(path: str | os.PathLike[str]) -> str | None:
    """What network a file is, in words; None where it holds weights only.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(path)
    if is_saved_model(path):
        return _SAVED_MODEL
    config = _config(path)
    if config is None:
        return None
    return _LAMBDA if _has_code(config) else _MODEL


def needs_trust(path: str | os.PathLike[str]) -> bool:
    """Whether loading the network can run code that the file brings."""
    return program_kind(path) in {_SAVED_MODEL, _LAMBDA}


def load_program(
    path: str | os.PathLike[str], trust: bool, key: str | None = None, compiled: bool = True
) -> keras.Model:
    """The network that a file holds.

    Args:
        path: A `.keras` or `.h5` file of a whole model, its folder, or a SavedModel.
        trust: Whether code of the file may run.
        key: Not for such files.
        compiled: Whether the loss and the metrics that it was compiled with are loaded too.

    Raises:
        ValueError: If there is no trust where it is needed, or the file holds no network that gradvis can compute with.
    """
    if key is not None:
        raise ValueError(f"--key chooses a state in a file of several, but {path} has one; leave it out")
    kind = program_kind(path)
    if not trust and needs_trust(path):
        raise ValueError(f"loading {path} can run code, for it is {kind}; if you trust it, give --trust")
    if kind == _SAVED_MODEL:
        return _saved_model(Path(path))
    try:
        return _load(path, compiled, trust)
    except Exception as error:  # Keras and the file's classes raise all kinds
        raise ValueError(f"{path}, {kind}, could not be loaded: {_why(error, path, compiled, trust)}") from error


def _load(path: str | os.PathLike[str], compiled: bool, trust: bool) -> keras.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own, of optimizers whose state it skips
        return keras.saving.load_model(path, compile=compiled, safe_mode=not trust)


def _why(error: Exception, path: str | os.PathLike[str], compiled: bool, trust: bool) -> str:
    """What to do about it: the network may be known, though the loss is not."""
    if compiled:
        try:
            _load(path, False, trust)
        except Exception as other:
            return _why(other, path, False, trust)
        return "Keras does not know the loss or a metric that it was compiled with; give --loss NAME, or --objective"
    said = " ".join(str(error).split())
    named = _UNKNOWN.search(said)
    what = f"Keras does not know {named[1]}" if named else f"{type(error).__name__}: {said:.200}"
    return f"{what}; give --objective FILE.py:NAME, a function that builds the network"


def _config(path: Path) -> Any:
    """What a file says of layers and their order; None if it says nothing.

    Raises:
        ValueError: If it is damaged.
    """
    if path.is_file():
        with path.open("rb"):  # a file that may not be read is the system's refusal, no damage
            pass
    try:
        text = _config_text(path)
        return None if text is None else json.loads(text)
    except (BadZipFile, KeyError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"a Keras file was wanted, but {path} is none, or it is damaged ({said:.200}); save it again"
        ) from error


def _config_text(path: Path) -> Any:
    if is_keras_folder(path):
        return (path / _CONFIG).read_text()
    if path.suffix == ARCHIVE:
        with ZipFile(path) as archive:
            return archive.read(_CONFIG)
    if path.suffix in HDF5:
        with h5py.File(path) as file:
            return file.attrs.get("model_config")
    return None


def _has_code(config: Any) -> bool:
    """Whether a config brings Python code, as Lambda layers do."""
    if isinstance(config, dict):
        return config.get("class_name") in _LAMBDA_MARKS or any(map(_has_code, config.values()))
    return isinstance(config, list) and any(map(_has_code, config))


# --------------------------------------------------------------------------------------------- SavedModel


def _saved_model(path: Path) -> keras.Model:
    """The network of a SavedModel.

    Raises:
        ValueError: If it cannot be loaded, has no function to call, or nothing that can be moved.
    """
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow and the file's own operations raise all kinds
        raise ValueError(
            f"{path}, {_SAVED_MODEL}, could not be loaded ({' '.join(str(error).split()):.200}); load it where its "
            "operations are known, or save the network as .keras"
        ) from error
    function = next(_functions(loaded), None)
    if function is None:
        raise ValueError(
            f"a SavedModel with a function that gives outputs was wanted, but {path} has none; save the network by "
            "model.export or as .keras, or give --objective FILE.py:NAME"
        )
    if not any(variable.trainable for variable in function.variables):
        raise ValueError(
            f"a network with parameters was wanted, but {path} holds none that can be moved; save it as .keras"
        )
    if any("moving_" in variable.name for variable in function.variables):
        note(f"{path} is a SavedModel: its batch norm uses the stored statistics, whatever batch_norm says")
    return Program(function, getattr(loaded, "variables", ()))


def _functions(loaded: Any) -> Iterator[Any]:
    """The functions that can be called, best first: what a server would call, then the module's own call."""
    named = loaded.signatures
    yield from (named[name] for name in ("serving_default", *named) if name in named)
    if callable(loaded):
        yield from loaded.__call__.concrete_functions


class Program(keras.Model):  # type: ignore[misc]
    """A traced function as a Keras model: its variables are copied, under the names that they had.

    Args:
        function: A concrete function of a SavedModel.
        listed: All variables of the model, as `model.export` lists them; the function has those that it uses, in the
            order of their use.

    Attributes:
        listed: Where in that list each variable is, by its id; empty if there is no list.
        count: How many variables it had.
    """

    def __init__(self, function: Any, listed: Sequence[Any] = ()) -> None:
        super().__init__(name="program")
        tree: dict[str, _Part] = {}
        place = {id(variable): number for number, variable in enumerate(listed)}
        variables = sorted(function.variables, key=lambda variable: place.get(id(variable), len(place)))
        copies = [self._copy(variable, tree) for variable in variables]
        whole = place.keys() >= {id(variable) for variable in variables}
        pairs = zip(copies, variables, strict=True) if whole else ()
        self.listed, self.count = {id(copy): place[id(variable)] for copy, variable in pairs}, len(listed)
        # As a list they would be variables of the model itself, without a place in the tree.
        self._copies: partial[list[Any]] = partial(list, copies)
        inner = {id(outside): inside.name for outside, inside in function.graph.captures}
        self._places = [inner[id(variable.handle)] for variable in variables]
        self._specs = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
        self._graph, self._results = frozen.graph.as_graph_def(), [each.name for each in frozen.outputs]
        self._nodes = frozenset(node.name for node in self._graph.node)
        self._eager = tf.function(self._run, autograph=False)
        self.built = True

    def _copy(self, variable: Any, tree: dict[str, _Part]) -> Any:
        """A variable of this model with the other's name and value."""
        *path, name = variable.name.removesuffix(":0").split("/")
        place: Any = self
        for depth, part in enumerate(path):
            where = "/".join(path[: depth + 1])
            if where not in tree:
                tree[where] = _Part(part)
                place.parts = [*getattr(place, "parts", []), tree[where]]
            place = tree[where]
        copy = place.add_weight(
            name=name, shape=variable.shape, dtype=variable.dtype.name, trainable=variable.trainable,
            initializer="zeros",
        )  # fmt: skip
        copy.assign(variable)
        return copy

    def call(self, inputs: Any) -> Any:
        """The outputs of inputs, (b, ...); a dict of inputs, or a list of outputs, where the program has several."""
        return self._eager(inputs) if tf.executing_eagerly() else self._run(inputs)

    def _run(self, inputs: Any) -> Any:
        given = dict(zip(self._places, self._copies(), strict=True)) | self._given(inputs)
        there = {name: tf.convert_to_tensor(value) for name, value in given.items() if _node(name) in self._nodes}

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def compute(*values: Any) -> Any:  # tapes do not see what is imported
            inside = [tf.identity(value) for value in values]  # nor does an import reach out of a loop
            found = tf.graph_util.import_graph_def(self._graph, dict(zip(there, inside, strict=True)), self._results)
            return found, lambda *slopes: tf.gradients(found, inside, slopes)

        found = compute(*there.values())
        return found[0] if len(found) == 1 else found

    def _given(self, inputs: Any) -> dict[str, Any]:
        """The inputs by the names of the graph.

        Raises:
            ValueError: If they are others than those that it was made for.
        """
        names = [_node(each.name) for each in self._specs]
        named = inputs if isinstance(inputs, dict) else {names[0]: inputs}
        if set(named) != set(names):
            raise ValueError(
                f"the SavedModel takes {', '.join(names)}, but {', '.join(map(str, named))} came; give a dict of inputs"
            )
        for each in self._specs:
            if not each.shape.is_compatible_with(named[_node(each.name)].shape):
                raise ValueError(
                    f"the SavedModel takes inputs of shape {tuple(each.shape)}, but "
                    f"{tuple(named[_node(each.name)].shape)} came; export it for the shape of the data, the first "
                    "axis free (None)"
                )
        return {each.name: _fitting(named[_node(each.name)], each.dtype) for each in self._specs}


def _node(name: str) -> str:
    """Of a graph, by the name of its result."""
    return name.partition(":")[0]


def _fitting(value: Any, dtype: Any) -> Any:
    return tf.cast(value, dtype) if dtype.is_floating else value


class _Part(keras.layers.Layer):  # type: ignore[misc]
    """A place in the tree of names."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.built = True
