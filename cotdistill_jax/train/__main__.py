"""Command line of the embedded runner.

python -m cotdistill_jax.train --gin_file=gin/experiments/LEAF.gin --gin_file=gin/runs/finetune.gin --gin.MODEL_DIR='"DIR"'

Exit status: 0 where all steps are done; 75 (EX_TEMPFAIL) where a signal stopped it, its checkpoint saved, so that a scheduler knows to
run the same command again; 1 for a mistake, in one line, and for a fault, with its traceback.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from cotdistill_jax import command, files

command.import_quietly("tensorflow")  # before JAX, which lets it speak

import gin
import jax
import seqio
from absl import app, flags, logging

from cotdistill_jax import devices
from cotdistill_jax.train import gin_config, loop, meeting, run_folder, stopping, stopwatch

_FILES = flags.DEFINE_multi_string(
    "gin_file", None, "Gin file; repeat it, later files win.", required=True
)
_PATHS = flags.DEFINE_list(
    "gin_search_paths", ["."], "Folders in which gin files and includes are looked for."
)
_MODULES = flags.DEFINE_list("module_import", ["tasks"], "Modules that register SeqIO tasks.")
_VERBOSITY = flags.DEFINE_integer(
    "log_verbosity",
    logging.WARNING,
    "absl verbosity of the libraries: -1 warnings, 0 info, 1 debug.",
)
_TFDS = flags.DEFINE_string(
    "tfds_data_dir", None, "Folder of the prepared corpora (default: TFDS's own)."
)
_CACHES = flags.DEFINE_list(
    "seqio_additional_cache_dirs", [], "Folders with SeqIO's offline caches."
)
_ALLOW = flags.DEFINE_bool(
    "allow_config_changes", False, "Continue a folder although its run was configured otherwise."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Host and port of process 0, for a run of several processes."
)
_COUNT = flags.DEFINE_integer("process_count", None, "Number of processes of the run.")
_INDEX = flags.DEFINE_integer("process_index", None, "This process, from 0.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Several processes that find each other (Cloud TPU, Slurm)."
)
_CONNECT_SECONDS = flags.DEFINE_integer(
    "connect_timeout_seconds", 300, "How long processes wait for each other at the beginning."
)


def main() -> None:
    """Runs the command line; gin bindings are taken out before absl parses its flags."""
    bindings, arguments = gin_config.split_bindings(sys.argv)

    def run(unparsed: Sequence[str]) -> None:
        logging.set_verbosity(_VERBOSITY.value)
        if len(unparsed) > 1:
            raise app.UsageError(f"train: unexpected arguments {list(unparsed[1:])}")
        if _TFDS.value:
            seqio.set_tfds_data_dir_override(_TFDS.value)
        for folder in _CACHES.value:
            files.refuse_pattern(folder, "train", "cache folder", "SeqIO")
        seqio.add_global_cache_dirs(_CACHES.value)
        for module in _MODULES.value:
            importlib.import_module(module)
        gin_config.parse(_FILES.value, bindings, _PATHS.value)
        description = run_folder.Description(gin.config_str(), sys.argv, _ALLOW.value)
        try:
            train = gin.get_configurable(loop.train)
        except ValueError as error:
            raise ValueError(
                "train: none of the gin files binds the runner; give --gin_file=gin/runs/finetune.gin as the last one"
            ) from error
        if _COORDINATOR.value or _MULTIHOST.value:
            _connect(description)
        devices.announce()
        with stopping.StopSignal(_leave_before_first_step) as stop:
            result = train(description=description, stop=stop, age_seconds=stopwatch.process_age())
        folder = gin.query_parameter("MODEL_DIR/macro.value")
        ending = "done" if result.finished else "stopped; run the same command to continue"
        print(f"train: {ending} after step {result.step}: {folder}", flush=True)
        if not result.finished:
            _leave()

    app.run(run, argv=arguments)


def _leave_before_first_step(signal_name: str) -> None:
    print(f"train: stopped by {signal_name} before the first step of this start", flush=True)
    _leave()


def _leave() -> None:
    """Ends a stopped run's process although a thread of it compiles, or waits for data; its status asks to be started again."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    sys.stderr.flush()
    os._exit(os.EX_TEMPFAIL)


def _connect(description: run_folder.Description) -> None:
    same = (_MODULES, _TFDS, _CACHES, _ALLOW)
    settings = run_folder.settings(description, {flag.name: flag.value for flag in same})
    meeting.connect(
        _COORDINATOR.value, _COUNT.value, _INDEX.value, settings, _CONNECT_SECONDS.value
    )


if __name__ == "__main__":
    command.run(main)
