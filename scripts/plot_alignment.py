"""Draws how a teacher's tokens were aligned to the student's pieces, `spans` and `dtw` above each other.

python scripts/plot_alignment.py --records=DIR --vocab=data/t5/spiece.model --question_id=gsm8k/train/0 --output=alignment.png
python scripts/plot_alignment.py --records=DIR --vocab=data/t5/spiece.model --output=alignment.html
"""

import argparse
import sys
from collections.abc import Sequence

from cotdistill_jax import alignment, command, files, teacher
from cotdistill_jax.report import alignment_links, pictures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", required=True, help="folder of teacher records")
    add("--vocab", required=True, help="SentencePiece model file of the student")
    add("--question_id", help="which question; default: the first")
    add("--sample_id", type=int, help="which of its samples; default: the first")
    add("--method", choices=sorted(alignment.METHODS), help="one method; default: both")
    add("--theme", choices=("light", "dark"), default="light", help="colours of .png and .svg")
    add("--output", required=True, help="file to write: .html, .png or .svg")
    flags = parser.parse_args(arguments)
    methods = (flags.method,) if flags.method else ("spans", "dtw")
    try:
        found = list(teacher.read_records(flags.records))
        record = pictures.find_record(found, flags.question_id, flags.sample_id)
        vocabulary = files.open_vocabulary(flags.vocab, "plot")
        aligned = [alignment_links.align(record, vocabulary, method) for method in methods]
        drawings = {"alignment": pictures.alignment_drawing(record, aligned)}
        pictures.write_pictures(drawings, record, flags.output, flags.theme)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(str(error))
    for one in aligned:
        print(f"{one.method}: {one.num_one_hot} of {len(one.pieces)} pieces one-hot", end="")
        print(f", rejected: {one.rejected}" if one.rejected else "")
    print(f"{record.question_id}, sample {record.sample_id} in {flags.output}")


if __name__ == "__main__":
    command.run(main)
