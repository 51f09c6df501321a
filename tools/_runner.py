"""The Runner of MMEngine that the tools use."""

from __future__ import annotations

import logging
import sys
from typing import Any

from _stopping import StopRequest


def make_runner(config: Any, verbose: bool, stop: StopRequest | None = None) -> Any:
    """A Runner whose log goes to its file; the terminal shows only the warnings."""
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    class StopHook(Hook):
        """Stops between frames if the exception of a signal was lost."""

        def _before_iter(self, *args: Any, **kwargs: Any) -> None:
            if stop is not None:
                stop.check()

    from blockcopy_plugins.checkpoints.model_weights import readable_weights
    from blockcopy_plugins.integrations.mmengine.buildable import buildable

    class ToolRunner(Runner):
        def build_model(self, model):
            with buildable("the model"):
                return super().build_model(model)

        def build_test_loop(self, loop):
            with buildable("the test loop"):
                return super().build_test_loop(loop)

        def build_train_loop(self, loop):
            with buildable("the train loop"):
                return super().build_train_loop(loop)

        def load_checkpoint(self, filename, *args, **kwargs):
            with readable_weights(filename):
                return super().load_checkpoint(filename, *args, **kwargs)

        def build_logger(self, log_level="INFO", log_file=None, **kwargs):
            logger = super().build_logger(log_level, log_file, **kwargs)
            for handler in logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    say_once_if_unwritten(handler)
                elif not verbose:
                    handler.setLevel(logging.WARNING)
            return logger

    with buildable("the runner"):
        runner = ToolRunner.from_cfg(config)
    runner.register_hook(StopHook(), "VERY_HIGH")
    return runner


def say_once_if_unwritten(handler: logging.FileHandler) -> None:
    """Say once that a log cannot be written; logging prints a traceback for each of its lines."""
    usual, said = handler.handleError, []

    def say(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            usual(record)
        elif not said:
            said.append(error)
            reason = error.strerror or error
            print(
                f"note: the log {handler.baseFilename} cannot be written ({reason}); it is "
                "incomplete from here on",
                file=sys.stderr,
            )

    handler.handleError = say
