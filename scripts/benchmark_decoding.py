"""Measures generation beside Hugging Face PyTorch `generate` and CTranslate2: same machine, weights and questions, greedy.

    python scripts/benchmark_decoding.py --work=equal                      # 8 x 256 tokens in, 128 new, no early end
    python scripts/benchmark_decoding.py --work=natural --checkpoint=RUN   # real lengths, real ends

`equal`: FlanT5-small's dimensions with random weights, random input tokens; end of text is forbidden to all, so that every
system makes the same number of tokens. `natural`: the questions of a benchmark with a checkpoint's own weights and ends of
text; Hugging Face answers in file order, padded to the longest of a batch, until the longest answer has ended (the way
of the paper's code, but batched), ours as `inference` does.

`ours_int8_dynamic` beside `ctranslate2_int8` compares 8-bit weights. Its texts differ from those of the floats.

Systems take turns, round by round; compilation and a first round (natural work: of ours) are not counted; the table has the median of each
system's rounds and the ratio of ours to it. Needs torch and transformers, CTranslate2 only where it is among --systems.
"""

import argparse
import functools
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cotdistill_jax import checkpoints, command, decoding, devices, inference, network
from cotdistill_jax.checkpoints import huggingface
from cotdistill_jax.inference import lengths, selection
from cotdistill_jax.inference.vocabulary import Vocabulary

Run = Callable[[], list[list[int]]]
OURS = {"ours": "float", "ours_int8": "int8", "ours_int8_dynamic": "int8_dynamic"}
SYSTEMS = (*OURS, "huggingface", "ctranslate2", "ctranslate2_int8")
NO_TOKEN = -1  # no token has this id, so nothing ends a text
EOS = decoding.EOS_ID


def main(arguments: Sequence[str] | None = None) -> None:
    flags = _parser().parse_args(arguments)
    devices.announce()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "hf"
        if flags.work == "equal":
            config, params, prompts = _equal_work(flags)
        else:
            config, params, prompts = _natural_work(flags)
        huggingface.write(folder, config, params)
        runs = {
            name: _run_of(name, config, params, folder, prompts, flags) for name in flags.systems
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        outputs: dict[str, list[list[int]]] = {}
        for round_ in range(flags.rounds + 1):
            for name, run in runs.items():
                if not round_ and flags.work == "natural" and name not in OURS:
                    continue  # nothing to compile, and minutes long
                start = time.perf_counter()
                outputs[name] = run()
                if round_:
                    seconds[name].append(time.perf_counter() - start)
    _print(flags, prompts, outputs, seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", choices=("equal", "natural"), default="equal")
    add(
        "--systems",
        type=lambda text: text.split(","),
        default=["ours", "huggingface", "ctranslate2"],
    )
    add("--rounds", type=int, default=3, help="measured rounds of every system")
    add("--threads", type=int, default=2, help="of torch and CTranslate2; JAX takes the machine's")
    add("--batch_size", type=int, default=8)
    add(
        "--our_batch_size", type=int, help="rows that ours decodes together; default: as the others"
    )
    add("--input_tokens", type=int, default=256, help="equal work: tokens of a prompt")
    add("--max_new_tokens", type=int, default=128)
    add("--vocab_size", type=int, default=32_128, help="equal work")
    add("--layers", type=int, default=8, help="equal work: of each stack")
    add("--checkpoint", help="natural work: run or Hugging Face folder")
    add("--benchmark", default="arith:train", help="natural work")
    add("--num_examples", type=int, default=300, help="natural work")
    add("--json", type=pathlib.Path, help="write the numbers here, too")
    return parser


def _equal_work(flags: argparse.Namespace) -> tuple[network.T5Config, Any, list[list[int]]]:
    config = network.T5Config(
        vocab_size=flags.vocab_size,
        num_encoder_layers=flags.layers,
        num_decoder_layers=flags.layers,
    )
    params = checkpoints.init_variables(config, jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    shape = (flags.batch_size, flags.input_tokens)
    return config, params, rng.integers(2, flags.vocab_size, shape).tolist()


def _natural_work(flags: argparse.Namespace) -> tuple[network.T5Config, Any, list[list[int]]]:
    (chosen,) = selection.select(flags.checkpoint)
    model = selection.load(chosen)
    (part,) = inference.plan([flags.benchmark], ["zero_shot_cot"], num_examples=flags.num_examples)
    words = Vocabulary(model.vocabulary_file)
    fitted = lengths.fit(part.prompt, part.questions, words.encode, 2048)
    return model.config, model.params, [one.tokens for one in fitted]


def _run_of(
    name: str,
    config: network.T5Config,
    params: Any,
    folder: pathlib.Path,
    prompts: list[list[int]],
    flags: argparse.Namespace,
) -> Run:
    """Returns a function that answers all prompts with one system.

    Raises:
        ValueError: unknown system.
    """
    if name in OURS:
        prepared = decoding.prepare(config, jax.device_put(params), OURS[name])
        return functools.partial(_ours, config, prepared, OURS[name], prompts, flags)
    if name == "huggingface":
        return _huggingface(folder, prompts, flags)
    if name in ("ctranslate2", "ctranslate2_int8"):
        return _ctranslate2(folder, prompts, flags, "int8" if name.endswith("int8") else "float32")
    raise ValueError(f"unknown system {name!r}; allowed: {', '.join(SYSTEMS)}")


def _ours(
    config: network.T5Config,
    prepared: decoding.Weights,
    kind: str,
    prompts: list[list[int]],
    flags: argparse.Namespace,
) -> list[list[int]]:
    completions = decoding.generate(
        config,
        prepared,
        prompts,
        flags.max_new_tokens,
        batch_size=flags.our_batch_size or flags.batch_size,
        eos_id=EOS if flags.work == "natural" else NO_TOKEN,
        weights=kind,
    )
    return [completion.tokens for completion in completions]


def _huggingface(folder: pathlib.Path, prompts: list[list[int]], flags: argparse.Namespace) -> Run:
    import torch
    import transformers

    torch.set_num_threads(flags.threads)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    at_least = flags.max_new_tokens if flags.work == "equal" else None

    def run() -> list[list[int]]:
        outputs = []
        for first in range(0, len(prompts), flags.batch_size):
            batch = prompts[first : first + flags.batch_size]
            tokens = torch.zeros((len(batch), max(map(len, batch))), dtype=torch.long)
            for row, prompt in enumerate(batch):
                tokens[row, : len(prompt)] = torch.tensor(prompt)
            with torch.inference_mode():
                made = model.generate(
                    input_ids=tokens,
                    attention_mask=(tokens != decoding.PAD_ID).long(),
                    max_new_tokens=flags.max_new_tokens,
                    min_new_tokens=at_least,
                    do_sample=False,
                    num_beams=1,
                )
            outputs += [_up_to_end(row) for row in made[:, 1:].tolist()]
        return outputs

    return run


def _up_to_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


def _ctranslate2(
    folder: pathlib.Path, prompts: list[list[int]], flags: argparse.Namespace, compute_type: str
) -> Run:
    import ctranslate2

    _write_numbered_tokenizer(folder)
    converted = folder.with_name(f"ctranslate2-{compute_type}")
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    converter.convert(str(converted), quantization=compute_type)
    translator = ctranslate2.Translator(
        str(converted), compute_type=compute_type, intra_threads=flags.threads
    )
    named = [[f"t{token}" for token in prompt] for prompt in prompts]
    equal = flags.work == "equal"

    def run() -> list[list[int]]:
        found = translator.translate_batch(
            named,
            beam_size=1,
            max_batch_size=flags.batch_size,
            max_decoding_length=flags.max_new_tokens,
            min_decoding_length=flags.max_new_tokens if equal else 1,
            max_input_length=0,
            return_end_token=True,
        )
        return [[int(token[1:]) for token in result.hypotheses[0]] for result in found]

    return run


def _write_numbered_tokenizer(folder: pathlib.Path) -> None:
    """Writes a tokenizer that calls token i `t{i}`: the converter wants names, the measurement none."""
    import tokenizers
    import transformers

    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    words = tokenizers.models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t2")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words),
        pad_token="t0",
        eos_token="t1",
        unk_token="t2",
    ).save_pretrained(folder)


def _print(
    flags: argparse.Namespace,
    prompts: list[list[int]],
    outputs: dict[str, list[list[int]]],
    seconds: dict[str, list[float]],
) -> None:
    """Prints the table and whether all systems wrote the same."""
    first = next(iter(seconds))
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    print(
        f"{flags.work} work: {len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
        f"batch {flags.batch_size} (ours {flags.our_batch_size or flags.batch_size}), at most {flags.max_new_tokens} new tokens, {flags.rounds} rounds\n"
        f"{'system':>18}{'seconds':>10}{'(best)':>9}{'tokens/s':>10}{'ratio':>8}  same texts as {first}"
    )
    rows = []
    for name, times in seconds.items():
        num_tokens = sum(map(len, outputs[name]))
        same = sum(a == b for a, b in zip(outputs[name], outputs[first], strict=True))
        rows.append(
            {
                "system": name,
                "seconds": middle[name],
                "best_seconds": min(times),
                "new_tokens": num_tokens,
                "tokens_per_second": num_tokens / middle[name],
                f"{first}_speedup": middle[name] / middle[first],
                "same_texts": same,
            }
        )
        print(
            f"{name:>18}{middle[name]:>10.2f}{min(times):>9.2f}{num_tokens / middle[name]:>10.0f}"
            f"{middle[name] / middle[first]:>8.2f}  {same} of {len(prompts)}"
        )
    if flags.json:
        flags.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command.run(main)
