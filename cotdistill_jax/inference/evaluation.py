"""`evaluate`: a loaded model, benchmarks and prompts -> prediction files, `results.json`, `manifest.json`.

    output_dir/
      predictions/gsm8k.zero_shot_cot.jsonl           one line per question, in the benchmark's order once complete
      predictions/gsm8k.zero_shot_cot.samples.jsonl   with sampling: one line per question and sample
      results.json                                    accuracies by every rule
      manifest.json                                   what all of it was made with, counts

A second call with the same arguments goes on where the first was interrupted and answers nothing twice; a call with
other benchmarks or prompts, or more samples, adds to the folder; one with another model or other settings is refused.

Several processes that share a mesh all call `evaluate`; the first reads and writes the files.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cotdistill_jax import files
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import lengths, manifest, predictions, results, scoring, voting
from cotdistill_jax.inference.planning import Part, Sampling, plan
from cotdistill_jax.inference.vocabulary import Vocabulary

if TYPE_CHECKING:
    import jax

    from cotdistill_jax import checkpoints, decoding
    from cotdistill_jax.inference.generation import Generator

# The complex prompt and the longest question of GSM8K's test set have 2,382.
MAX_INPUT_TOKENS = 2560
MAX_NEW_TOKENS = 256
PREDICTIONS_FOLDER = "predictions"
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


def evaluate(
    model: "checkpoints.Model",
    benchmarks: Sequence[str],
    prompts: Sequence[str],
    output_dir: files.AnyPath,
    *,
    data_dir: files.AnyPath | None = None,
    num_examples: int | None = None,
    max_input_tokens: int = MAX_INPUT_TOKENS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_long_prompt: str = "error",
    batch_size: int = 32,
    sampling: Sampling | None = None,
    mesh: "jax.sharding.Mesh | None" = None,
    weights: str = "float",
    progress: bool = True,
) -> list[scoring.Result]:
    """Returns the results of a model, having written them to `output_dir`; of several processes only the first has any.

    With sampling there is one result per number of votes, called `<prompt>@1`, `<prompt>@2`, `<prompt>@4`, ...

    Args:
        model: from `checkpoints.load_model`; or made in memory, with a `path` that does not exist.
        benchmarks: `gsm8k`, `gsm8k:dev`, `bbh/navigate`, `bbh` for all its tasks, ...; see `plan`.
        prompts: `zero_shot_cot`, `cot_4_cases`, `file:<path>`, ...; see `plan`.
        output_dir: made where missing; continued where an earlier call with the same settings stopped.
        data_dir: benchmark folder; None reads COTDISTILL_DATA_DIR.
        num_examples: the first so many questions of each benchmark; None for all.
        max_input_tokens: the longest input the model is given, EOS included.
        max_new_tokens: the most tokens generated, EOS included.
        on_long_prompt: `error`, or `truncate` (see `lengths`).
        batch_size: texts decoded together; no effect on what they are beyond rounding.
        sampling: how texts are drawn; None for greedy decoding.
        mesh: devices to decode on, from `partitioning.make_mesh`; None for the default device.
        weights: `float`, `int8` or `int8_dynamic`: the decoder's matrices, see `decoding.step`.
        progress: whether to show a bar with questions/s, time left and running accuracy.

    Raises:
        ValueError: bad arguments, prompts that are too long, a model without usable vocabulary, or an output
            folder made with other settings; all before anything is generated.
        FileNotFoundError: a benchmark file or the vocabulary is missing.
        OSError: a file cannot be written; what was written is kept.
    """
    # Imported here: prompts, scoring and rescoring must not need jax.
    from cotdistill_jax.inference import generation, processes

    def planned() -> tuple[list[Part], Vocabulary, list[list[lengths.FittedPrompt]]]:
        parts = plan(
            benchmarks,
            prompts,
            data_dir=data_dir,
            num_examples=num_examples,
            sampling=sampling,
        )
        vocabulary = Vocabulary(model.vocabulary_file)
        fitted = [
            lengths.fit(
                part.prompt, part.questions, vocabulary.encode, max_input_tokens, on_long_prompt
            )
            for part in parts
        ]
        return parts, vocabulary, fitted

    parts, vocabulary, fitted = processes.together(planned)
    processes.check_same("questions or prompts", [part.settings for part in parts])
    processes.check_same("vocabularies", vocabulary.sha256)
    generator = generation.Generator(
        model,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        mesh=mesh,
        weights=weights,
    )
    folder = files.as_path(output_dir)

    def claimed() -> None:
        config = {
            **request_settings(
                _sha256(model),
                model.step,
                dtype=generation.dtype_name(model),
                max_input_tokens=max_input_tokens,
                max_new_tokens=max_new_tokens,
                on_long_prompt=on_long_prompt,
                weights=weights,
            ),
            "network": {k: v for k, v in dataclasses.asdict(model.config).items() if k != "dtype"},
            "vocabulary_sha256": vocabulary.sha256,
        }
        manifest.claim(folder, config, {part.key: part.settings for part in parts})

    processes.first_for_all(claimed)
    found: list[scoring.Result] = []

    def conclude(part: Part, inputs: Sequence[lengths.FittedPrompt]) -> None:
        answered = _in_order(part, folder)
        outside = sum(not vocabulary.can_spell(question.gold) for question in part.questions)
        if part.sampling:
            scored = voting.curve(part.benchmark, part.prompt.mode, answered)
        else:
            scored = [scoring.tally(part.benchmark, part.prompt.mode, answered)]
        found.extend(dataclasses.replace(one, golds_outside_vocabulary=outside) for one in scored)
        results.write(folder, str(model.path), model.step, found)
        manifest.record_counts(folder, part.key, _counts(part, inputs, answered))

    for part, inputs in zip(parts, fitted, strict=True):
        _predict(part, inputs, generator, vocabulary, folder, progress)
        processes.first_for_all(functools.partial(conclude, part, inputs))
    return [*found, *scoring.mean_of_tasks(found)]


def is_finished(
    output_dir: files.AnyPath, request: manifest.Settings, parts: Sequence[Part]
) -> bool:
    """Returns whether a folder holds the complete results of all parts, made as requested; loads no model.

    Args:
        output_dir: evaluation folder; it need not exist.
        request: from `request_settings`.
        parts: from `plan`.
    """
    found = manifest.read(files.as_path(output_dir))
    if found is None or any(found["config"].get(key) != value for key, value in request.items()):
        return False
    entries = found["predictions"]
    return all(
        part.key in entries
        and entries[part.key]["counts"].get("samples", 0) >= part.num_samples
        and entries[part.key]["settings"] == part.settings
        for part in parts
    )


def request_settings(
    checkpoint_sha256: str,
    step: int,
    *,
    dtype: str,
    max_input_tokens: int,
    max_new_tokens: int,
    on_long_prompt: str,
    weights: str,
) -> dict[str, Any]:
    """Returns the settings shared by all files of a folder that are known before the model is loaded.

    Args:
        checkpoint_sha256: from `manifest.folder_sha256`.
        step: training step of the checkpoint.
        dtype: `float32` or `bfloat16`.
        max_input_tokens: as in `evaluate`.
        max_new_tokens: as in `evaluate`.
        on_long_prompt: as in `evaluate`.
        weights: as in `evaluate`.
    """
    return {
        "checkpoint_sha256": checkpoint_sha256,
        "step": step,
        "dtype": dtype,
        "weights": weights,
        "max_new_tokens": max_new_tokens,
        # With `error` the limit decides whether there are predictions, not what they are.
        "truncate_inputs_to": max_input_tokens if on_long_prompt == "truncate" else None,
    }


def _sha256(model: "checkpoints.Model") -> str:
    from cotdistill_jax.inference import generation

    stored = model.path.exists()
    return manifest.folder_sha256(model.path) if stored else generation.params_sha256(model)


def _predict(
    part: Part,
    inputs: Sequence[lengths.FittedPrompt],
    generator: "Generator",
    vocabulary: Vocabulary,
    folder: files.Path,
    progress: bool,
) -> None:
    """Completes one prediction file."""
    from cotdistill_jax.inference import processes

    headline = scoring.rules_for(part.questions[0].benchmark)[0]
    keys = [(q.id, sample) for q in part.questions for sample in range(part.num_samples)]
    with contextlib.ExitStack() as opened:
        writers: list[predictions.PredictionWriter] = []  # one, in the first process

        def done() -> list[tuple[str, int]]:
            writer = predictions.PredictionWriter(_path(part, folder))
            writers.append(opened.enter_context(writer))
            return list(writer.done)

        answered = {(id_, sample) for id_, sample in processes.first_for_all(done)}
        missing = {key for key in keys if key not in answered}
        waiting = {id_ for id_, _ in missing}
        rows = [row for row, q in enumerate(part.questions) if q.id in waiting]
        bar = opened.enter_context(
            tqdm(
                total=len(keys),
                initial=len(keys) - len(missing),
                desc=part.key,
                unit="text" if part.sampling else "question",
                bar_format=_BAR,
                disable=not (progress and writers),
            )
        )

        def write(batch: Sequence["decoding.Answer"]) -> None:
            written = [
                _graded(part, part.questions[rows[answer.prompt]], answer, vocabulary)
                for answer in batch
            ]
            written = [prediction for prediction in written if prediction.key in missing]
            (writer,) = writers
            writer.append(written)
            bar.update(len(written))
            right = sum(p.correct[headline] for p in writer.done.values())
            bar.set_postfix(accuracy=f"{right / len(writer.done):.1%}")

        for batch in generator.answers([inputs[row].tokens for row in rows]):
            processes.first_for_all(functools.partial(write, batch))


def _path(part: Part, folder: files.Path) -> files.Path:
    return folder / PREDICTIONS_FOLDER / f"{part.key}.jsonl"


def _in_order(part: Part, folder: files.Path) -> list[predictions.Prediction]:
    """Puts a complete prediction file in the order of its questions and returns what was asked for of it."""
    ids = [question.id for question in part.questions]
    ordered = predictions.sort_file(_path(part, folder), ids)
    return [prediction for prediction in ordered if prediction.sample_id < part.num_samples]


def _graded(
    part: Part, question: Question, answer: "decoding.Answer", vocabulary: Vocabulary
) -> predictions.Prediction:
    completion = answer.completion
    return predictions.graded(
        question,
        part.prompt.mode,
        vocabulary.decode(completion.tokens),
        log_prob=sum(completion.log_probs),
        num_tokens=len(completion.tokens),
        finished=completion.finished,
        sample_id=answer.sample,
    )


def _counts(
    part: Part,
    inputs: Sequence[lengths.FittedPrompt],
    answered: Sequence[predictions.Prediction],
) -> dict[str, int]:
    whole = len(part.prompt.demonstrations)
    return {
        "in": len(part.questions),
        "samples": part.num_samples,
        "out": len(answered),
        "prompts_with_demonstrations_left_out": sum(i.num_left_out > 0 for i in inputs),
        "prompts_cut": sum(i.num_cut > 0 for i in inputs),
        "own_demonstration_left_out": sum(
            len(part.prompt.shown(q.question)) < whole for q in part.questions
        ),
        "unfinished": sum(not prediction.finished for prediction in answered),
    }
