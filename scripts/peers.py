"""What the benchmarks of training share: contenders in processes of their own that take turns, and the paper's PyTorch step.

A contender's process keeps its memory, its threads and its allocator to itself; while one has its turn, the others sleep. So
a contender is not slowed by what another left behind, and a machine that slows down slows all of them.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cotdistill_jax import network
from cotdistill_jax.checkpoints import huggingface

Turn = Callable[[], Any]


class Contender:
    """A process that makes something once and then takes turns."""

    def __init__(self, make: Callable[..., Turn], *arguments: Any) -> None:
        """Starts it and waits until it is ready.

        Args:
            make: a function of a module; what it returns is called at every turn.
            *arguments: for `make`, sent to the process.

        Raises:
            ModuleNotFoundError: `make` needs a package that is not installed.
            RuntimeError: the process ended.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        missing = self._receive()
        if missing:
            raise ModuleNotFoundError(missing)

    def turn(self) -> Any:
        """Returns what one turn returned."""
        self._connection.send(None)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"benchmark: a contender ended with exit code {self._process.exitcode} (-9: out of memory)"
            ) from None


def _serve(connection: Any, make: Callable[..., Turn], arguments: Sequence[Any]) -> None:
    try:
        turn = make(*arguments)
    except ModuleNotFoundError as error:
        connection.send(str(error))
        return
    connection.send("")
    while True:
        try:
            connection.recv()
        except EOFError:
            os._exit(0)
        connection.send(turn())


def timed(run: Callable[[], Any]) -> Callable[[], float]:
    """Returns a turn that calls `run` and returns its seconds."""

    def turn() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return turn


def matrix_product(size: int) -> Callable[[], float]:
    """Returns a turn: the FLOPs per second of a float32 product of two square matrices under XLA."""
    import jax

    matrix = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jax.numpy.dot)
    jax.block_until_ready(product(matrix, matrix))
    once = timed(lambda: jax.block_until_ready(product(matrix, matrix)))
    return lambda: 2 * size**3 / min(once() for _ in range(5))


class SeedTrainer:
    """The step of the paper's public code: Hugging Face's T5, a dense teacher, softmax and then the logarithm, AdamW.

    Source: FranxYao/FlanT5-CoT-Specialization, train_distill_simple.py at commit a8ffd51.
    """

    def __init__(self, config: network.T5Config) -> None:
        """Makes model and optimizer; needs torch and transformers."""
        import torch
        import transformers

        self._torch = torch
        self._vocab_size = config.vocab_size
        described = transformers.T5Config(**huggingface.describe(config))
        self._model = transformers.T5ForConditionalGeneration(described).eval()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=5e-4)

    def backward(self, examples: Sequence[Mapping[str, np.ndarray]]) -> int:
        """Adds the gradient of one micro-batch, padded to its longest; returns its target tokens.

        Args:
            examples: `inputs` [S], `targets` [L] and, unless they are answers only, `teacher_ids` and
                `teacher_probs` [L, K].
        """
        torch = self._torch
        inputs, targets = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(example[name]).long() for example in examples], batch_first=True
            )
            for name in ("inputs", "targets")
        )
        mask = (targets > 0).float()
        logits = self._model(
            input_ids=inputs,
            attention_mask=(inputs > 0).long(),
            decoder_input_ids=torch.nn.functional.pad(targets, (1, 0))[:, :-1],
            decoder_attention_mask=mask.long(),
        ).logits
        if examples[0]["teacher_probs"].any():
            teacher = torch.zeros(*targets.shape, self._vocab_size)
            for row, example in enumerate(examples):
                ids = torch.tensor(example["teacher_ids"]).long()
                probs = torch.tensor(example["teacher_probs"])
                teacher[row, : len(ids)].scatter_(-1, ids, probs)
            student = torch.softmax(logits, dim=-1)
            token_loss = (teacher * torch.log(teacher / (student + 1e-10) + 1e-10)).sum(-1)
        else:
            token_loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none"
            ).view(targets.shape)
        loss = (token_loss * mask).sum() / mask.sum()
        loss.backward()
        loss.item()
        return int(mask.sum())

    def update(self) -> None:
        """Makes the optimizer's step."""
        self._optimizer.step()
        self._optimizer.zero_grad()
