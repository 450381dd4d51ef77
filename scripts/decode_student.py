"""Decodes questions with a student (or plain FlanT5) as teacher: texts with top-k probabilities, as teacher records.

    python scripts/decode_student.py --checkpoint=RUN --benchmark=gsm8k:train --num_samples=8 --output_dir=RECORDS
    python scripts/align_teacher.py --records=RECORDS --vocab=$COTDISTILL_DATA_DIR/t5/spiece.model --output_dir=ALIGNED

Run the same command again to go on after an interruption.
"""

import argparse
from collections.abc import Sequence

from cotdistill_jax import command, devices, inference
from cotdistill_jax.inference import (
    evaluation,
    generation,
    lengths,
    prompts,
    selection,
    self_teaching,
)
from cotdistill_jax.inference.vocabulary import Vocabulary


def main(arguments: Sequence[str] | None = None) -> None:
    flags = _parser().parse_args(arguments)
    sampling = None
    if flags.num_samples is not None:
        sampling = inference.Sampling(flags.num_samples, flags.temperature, seed=flags.seed)
    devices.announce()
    (part,) = inference.plan(
        [flags.benchmark],
        [flags.prompt],
        data_dir=flags.data_dir,
        num_examples=flags.num_examples,
        sampling=sampling,
    )
    (chosen,) = selection.select(flags.checkpoint)
    model = selection.open_model(chosen, flags.vocab)
    vocabulary = Vocabulary(model.vocabulary_file)
    inputs = lengths.fit(part.prompt, part.questions, vocabulary.encode, flags.max_input_tokens)
    generator = generation.Generator(
        model,
        batch_size=flags.batch_size,
        max_new_tokens=flags.max_new_tokens,
        sampling=sampling,
        top_k=flags.top_k,
    )
    name = f"{chosen.path.parent.name}/{chosen.path.name}"
    number = self_teaching.write_records(
        flags.output_dir, part, inputs, generator, vocabulary, name
    )
    print(f"{flags.output_dir}: {number:,} records of {len(part.questions):,} questions by {name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        help="run folder, checkpoint_N folder, Hugging Face folder or a published name",
    )
    add("--vocab", help="SentencePiece model, where the checkpoint has none")
    add("--benchmark", required=True, help="such as gsm8k:train")
    add("--prompt", default="zero_shot_cot", help=f"{', '.join(prompts.MODES)} or file:<path>")
    add("--output_dir", required=True, help="of the records; made where missing")
    add("--data_dir", help="benchmark folder; default: the variable COTDISTILL_DATA_DIR")
    add("--num_examples", type=int, help="only the first so many questions")
    add("--num_samples", type=int, help="texts drawn per question; default: greedy, one")
    add("--temperature", type=float, default=0.7, help="of drawn texts")
    add("--seed", type=int, default=0, help="of drawn texts")
    add("--top_k", type=int, default=5, help="candidates recorded per piece, under temperature 1")
    add("--batch_size", type=int, default=32)
    add("--max_input_tokens", type=int, default=evaluation.MAX_INPUT_TOKENS, help="EOS included")
    add("--max_new_tokens", type=int, default=256, help="EOS included")
    return parser


if __name__ == "__main__":
    command.run(main)
