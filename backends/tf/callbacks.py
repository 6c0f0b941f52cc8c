"""The callback for `keras.Model.fit`."""

from __future__ import annotations

import os
from inspect import signature
from typing import Any

import keras
import tensorflow as tf

from gradvis.backends.tf.record import KerasRecorder, innermost, record, whole
from gradvis.backends.tf.watching import Watch
from gradvis.notes import note

_DATA_ENDED = (StopIteration, tf.errors.OutOfRangeError)  # how an epoch ends whose length nobody knew


class KerasCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Records `model.fit`; see `gradvis.record` for the options.

    Where training stands is taken right after each optimizer step, before other callbacks. The loss of a step is that
    of its batch alone, as the logs would have it: with what `model.losses` adds. Of batches whose gradients are
    accumulated it is the mean. With `steps_per_execution=K`, every K-th step is seen, with the loss of its own batch.

    Training goes on bit by bit as if it were not recorded, but for `gradient_norms=True`: with it, the norms of the
    step's own gradients, before clipping, are recorded too, on one replica. TensorFlow optimises a graph otherwise
    where gradients are read twice, and that costs the last bits.

    A fit that starts where another ended (the optimizer's `iterations` tell) continues the recording that is there.

    Args:
        objective: `FILE.py:NAME`, a function that returns the Objective, so that commands need nothing else.
        out: The folder of the recording.
        every_n_steps: How many optimizer steps lie between two recorded ones.
        gradient_norms: Whether these are recorded; see above.
        **options: More of `gradvis.record`.
    """

    def __init__(
        self,
        objective: str | None = None,
        out: str | os.PathLike[str] = "run.recording",
        every_n_steps: int = 20,
        gradient_norms: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        signature(record).bind(None, out=out, **options)
        self.gradient_norms = gradient_norms
        self.options = {"objective": objective, "out": out, "every_n_steps": every_n_steps, **options}
        self.recorder: KerasRecorder | None = None
        self._watch: Any = None
        self._plain: Any = None  # what fit calls without a watch
        self._fit: Any = None
        self._running = False
        self._last: tuple[Any, int, int] | None = None  # the optimizer of the last fit, its iterations, the step

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget a fit that an exception has ended."""
        self._finish()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Put the watch in, after all callbacks have begun: one of them may have loaded a state."""
        if self._running:
            return
        if isinstance(other := getattr(self.model.train_function, "__self__", None), KerasCallback):
            other.leave(self.model.history)
        self._running, self._epoch, self._fit = True, epoch, self.model.history
        if self._watch is None or self.model.train_function is not self._plain:
            self._plain = self.model.train_function
            self._watch = Watch(self.model, self._parameters, self.gradient_norms)
        self.model.train_function = self._step

    def on_train_end(self, logs: Any = None) -> None:
        """Close the recording."""
        self._finish()

    def leave(self, fit: Any) -> None:
        """For another callback that comes to this model: see that this one's fit is over.

        Raises:
            ValueError: If it is not.
        """
        if self._fit is fit:
            raise ValueError("one KerasCallback a fit was wanted, but two came; leave one out")
        self._finish()

    def _step(self, iterator: Any) -> Any:
        """What `fit` calls for each step, in place of its own function."""
        if self.model.history is not self._fit:  # another fit: an exception has ended this one, unseen from here
            self._finish()
            return self._plain(iterator)
        try:
            return self._recorded(iterator)
        except _DATA_ENDED:
            raise
        except BaseException:
            self._finish()
            raise

    def _recorded(self, iterator: Any) -> Any:
        if self.recorder is None:
            self.recorder = self._begun(iterator)
        logs, seen = self._watch.run(iterator)
        self.recorder.seen(seen, self.model.steps_per_execution)
        return logs

    def _parameters(self) -> list[Any]:
        return self.recorder.parameters if self.recorder else []

    def _begun(self, iterator: Any) -> KerasRecorder:
        model = self.model
        if not all(layer.built for layer in model._flatten_layers()):
            model._symbolic_build(data_batch=iterator.element_spec)  # as Keras does it for a distributed model
        if model.steps_per_execution > 1:
            note(
                f"steps_per_execution={model.steps_per_execution}: of so many steps the last alone is seen, and can be "
                "recorded"
            )
        optimizer = innermost(model.optimizer)
        options = {**self.options, **self._begin_at(optimizer)}
        return record(model, optimizer, **{**self._total(optimizer, options.get("step") or 0), **options})

    def _begin_at(self, optimizer: Any) -> dict[str, Any]:
        """The step from which a fit goes on: of its optimizer, or of the last fit if that had another."""
        iterations = whole(optimizer.iterations)
        if self._last is None:
            return {} if "step" in self.options or not iterations else {"step": iterations}
        before, then, step = self._last
        return {"step": max(0, step + iterations - then) if before is optimizer else step, "fresh": False}

    def _total(self, optimizer: Any, step: int) -> dict[str, int]:
        """How many steps there will be at the end, where Keras knows it."""
        epochs, batches = self.params.get("epochs"), self.params.get("steps")
        if not epochs or not batches:
            return {}
        return {"total_steps": step + (epochs - self._epoch) * batches // (optimizer.gradient_accumulation_steps or 1)}

    def _finish(self) -> None:
        if self._running and self.model.train_function == self._step:
            self.model.train_function = self._plain
        self._running = False
        if self.recorder is not None:
            self.recorder.close()
            optimizer = innermost(self.model.optimizer)
            self._last = optimizer, whole(optimizer.iterations), self.recorder.step
        self.recorder = None
