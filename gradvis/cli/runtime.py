"""How TensorFlow behaves in our commands: it says nothing, and computes with this rank's threads and device.

It is settled at the moment in which TensorFlow is imported, by gradvis or by the user's own file: afterwards it is
too late, and a job for PyTorch must not import it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from gradvis.notes import note

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_BACKEND = "KERAS_BACKEND"


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, TensorFlow and Keras leave no lines on the terminal, unless the user has set how much they say."""
    if _LEVEL in os.environ or "--debug" in sys.argv:
        yield
        return
    warnings.filterwarnings("ignore", module=r"(tensorflow|keras|absl|h5py)(\.|$)")
    finder = _Finder({"tensorflow": _hush_tensorflow, "keras": _hush_keras}, silent=True)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        os.environ.pop(_LEVEL, None)
        _forget(lambda _: True)


def settle(threads: int, local_rank: int, one_device: bool) -> None:
    """See that TensorFlow, once imported, has this rank's threads, and takes no more of a device than it needs.

    Args:
        threads: Of this rank.
        local_rank: Which of the ranks on this machine.
        one_device: Whether a rank sees one accelerator only; not where one is asked for by number.
    """

    def settled(tf: Any) -> None:
        with suppress(RuntimeError):  # it has begun to compute: the user's own settings hold
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
            found = tf.config.list_physical_devices("GPU")
            for device in found:
                tf.config.experimental.set_memory_growth(device, True)
            if found and one_device:
                tf.config.set_visible_devices([found[local_rank % len(found)]], "GPU")

    _forget(lambda finder: not finder.silent)
    if "tensorflow" in sys.modules:
        settled(sys.modules["tensorflow"])
    else:
        sys.meta_path.insert(0, _Finder({"tensorflow": settled}))


def take_tensorflow() -> None:
    """See that Keras will run on TensorFlow, where nothing has imported it yet.

    Raises:
        ValueError: If one of the two is not installed.
    """
    missing = [name for name in ("tensorflow", "keras") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"a file of Keras or TensorFlow needs {' and '.join(missing)}; install with: pip install "
            "'gradvis[tensorflow]'"
        )
    wanted = os.environ.get(_BACKEND, "tensorflow")
    if "keras" in sys.modules:
        return
    if wanted != "tensorflow":
        note(f"Keras runs on TensorFlow here, not on {wanted} as {_BACKEND} says: gradvis computes with TensorFlow")
    os.environ[_BACKEND] = "tensorflow"


def seen_devices() -> list[str]:
    """The accelerators that TensorFlow sees, by name; it is imported for that."""
    tf = import_module("tensorflow")
    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(each).get("device_name", each.name) for each in found]


def same_bits() -> None:
    """Let TensorFlow take operations that give the same bits each time, unless TF_DETERMINISTIC_OPS=0 is set.

    Random operations without a seed would then raise; they get one.
    """
    if (tf := sys.modules.get("tensorflow")) and os.environ.get("TF_DETERMINISTIC_OPS", "1") != "0":
        tf.random.set_seed(0)
        tf.config.experimental.enable_op_determinism()


class _Finder:
    """Does something as soon as a module has been imported.

    Args:
        after: What to do with it, by its name.
        silent: Whether what is written to standard error meanwhile is dropped: TensorFlow's C++ libraries say
            things before they heed any setting.
    """

    def __init__(self, after: dict[str, Callable[[Any], None]], silent: bool = False) -> None:
        self.silent, self._after, self._asks = silent, after, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As `importlib.abc.MetaPathFinder` has it."""
        del path, target
        if name not in self._after or self._asks:
            return None
        self._asks = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asks = False
        if spec is None or spec.loader is None:
            return spec
        run, then = spec.loader.exec_module, self._after[name]

        def execute(module: ModuleType) -> None:
            with _unheard() if self.silent else nullcontext():
                run(module)
            then(module)

        spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _forget(which: Callable[[_Finder], bool]) -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder) or not which(finder)]


@contextmanager
def _unheard() -> Iterator[None]:
    """Inside, what is written to standard error goes nowhere; afterwards TensorFlow's C++ libraries heed the level."""
    os.environ[_LEVEL] = "3"
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _hush_tensorflow(_: Any) -> None:
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _hush_keras(keras: Any) -> None:
    keras.config.disable_interactive_logging()  # progress bars
