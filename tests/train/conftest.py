"""What the tests share that train: toy tasks, a small run in this process, and the train command in forked ones.

A forked process starts from one that has imported everything, which saves the seconds that importing takes. Compiled programs are
kept in one folder per test session, so that the many runs of one small network compile it once.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap

import jax
import optax
import pytest

from cotdistill_jax import network
from cotdistill_jax.train import loop

ROOT = pathlib.Path(__file__).parents[2]
COMPILED = tempfile.TemporaryDirectory(prefix="cotdistill_jax_tests_")
# Before anything is compiled: JAX looks at it once.
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

TOY_TASKS = """\
import zlib, seqio, tensorflow as tf
from cotdistill_jax import corpus, features
from cotdistill_jax.benchmarks import arith

def examples(split, shuffle_files, seed=None):
    problems = arith.load(split, 64)
    return tf.data.Dataset.from_tensor_slices({
        "inputs": [f"Q: {problem.question} A:" for problem in problems],
        "targets": [f"The answer is {problem.gold}" for problem in problems]})

def said(targets, predictions):
    return {"distinct": len(set(predictions)), "checksum": zlib.crc32("|".join(predictions).encode()) % 2**24}

vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)
for name in ("toy_a", "toy_b", "toy_said"):
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, features.guard_lengths],
        output_features=features.text_features(vocabulary),
        metric_fns=[said] if name == "toy_said" else [])
seqio.MixtureRegistry.add("toy_mixture", [("toy_a", 0.7), ("toy_b", 0.3)])
"""
CONFIG = network.T5Config(
    vocab_size=512, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=1,
)  # fmt: skip
FORKING = """
    import json, os, sys
    from cotdistill_jax.train import __main__ as command
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(os.waitpid(request["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ.update(request["environment"])
            sys.argv = ["train", *request["arguments"]]
            command.main()
        print(pid, flush=True)
"""
TINY = {
    "EMB_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8, "MLP_DIM": 32, "NUM_LAYERS": 1, "COUNT_EXAMPLES": 0,
    "COMPILATION_CACHE_DIR": f"'{COMPILED.name}'",
}  # fmt: skip
TOY = {
    **TINY,
    "MIXTURE_OR_TASK_NAME": "'toy_mixture'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 96, 'targets': 32}",
}


class Runner:
    """Starts the train command in forked processes; what a run prints goes to `{model_dir}.log`, of a bucket's to a temporary folder."""

    def __init__(self, modules):
        self._logs = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(FORKING)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{modules}", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, model_dir, files, macros, flags=(), environment=None):
        """Returns the process id of a started run."""
        macros = {"MODEL_DIR": f"'{model_dir}'", **macros}
        arguments = [
            *flags,
            *(f"--gin_file=gin/{file}.gin" for file in files),
            *(f"--gin.{name}={value}" for name, value in macros.items()),
        ]
        return self._ask(
            arguments=arguments, output=self._log(model_dir), environment=environment or {}
        )

    def start_toy(self, model_dir, flags=(), environment=None, schedule="cosine", **macros):
        """Returns the process id of a started run on the toy tasks."""
        files = ("defaults", f"schedules/{schedule}", "models/tiny", "runs/finetune")
        flags = ("--module_import=toy_tasks", *flags)
        return self.start(model_dir, files, {**TOY, **macros}, flags, environment)

    def status(self, pid):
        """Waits for a run and returns its exit status, negative for a signal."""
        return os.waitstatus_to_exitcode(self._ask(wait=pid))

    def finish(self, pid, model_dir, expected=0):
        """Waits for a run that must end well and returns what was printed in `model_dir` so far."""
        status, said = self.status(pid), self.said(model_dir)
        assert status == expected, said[-4000:]
        return said

    def said(self, model_dir):
        """Returns what the runs in `model_dir` have printed; nothing before they are there."""
        log = pathlib.Path(self._log(model_dir))
        return log.read_text() if log.exists() else ""

    def _log(self, model_dir):
        if str(model_dir).startswith("gs://"):
            return f"{self._logs.name}/{str(model_dir)[5:].replace('/', '-')}.log"
        return f"{model_dir}.log"

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def runner(toy_tasks):
    runner = Runner(toy_tasks)
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def train_toy(toy_tasks):
    """A function that trains six steps of a tiny network on `toy_a` in this process; keywords change that, `config` the network."""
    spec = importlib.util.spec_from_file_location("toy_tasks", toy_tasks / "toy_tasks.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

    def train(model_dir, config=None, **changes):
        settings = dict(
            model_dir=model_dir,
            network_config=dataclasses.replace(CONFIG, **(config or {})),
            mixture_or_task_name="toy_a",
            task_feature_lengths={"inputs": 96, "targets": 32},
            total_steps=6,
            batch_size=4,
            optimizer=optax.adamw(1e-2),
            save_period=2,
            log_period=1,
            count_examples=0,
            tensorboard=False,
            progress=False,
        )
        return loop.train(**{**settings, **changes})

    return train


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory):
    """A folder with the module `toy_tasks`, which registers two tasks of 64 `arith` problems, their mixture, and one whose evaluation tells answers apart."""
    folder = tmp_path_factory.mktemp("toy_tasks")
    (folder / "toy_tasks.py").write_text(TOY_TASKS)
    return folder
