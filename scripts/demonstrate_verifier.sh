#!/usr/bin/env bash
# Self-consistency and a verifier on the embedded problems: student, samples, labels, verifier, choices, one table.
#
#     bash scripts/demonstrate_verifier.sh [FOLDER]        (default: runs/verifier)
#
# Every stage is a public command; running this again goes on where it was interrupted. 2 shared CPU cores: 51 minutes, much of it waiting.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh ""
folder=${1:-runs/verifier}
export COTDISTILL_TFDS_DIR=$folder/corpora COTDISTILL_VERIFIER_DIR=$folder/labelled

evaluate() {
  python -m cotdistill_jax.inference --checkpoint="$folder/student" --prompt=zero_shot_cot --max_new_tokens=48 --batch_size=256 "$@"
}

python scripts/build_corpus.py --corpus=arith --several_derivations
python -m cotdistill_jax.train --gin_file=gin/experiments/arith_student.gin --gin_file=gin/runs/finetune.gin \
  --gin.MODEL_DIR="'$folder/student'"
# Labels: samples of training problems. Results: samples of problems that neither the student nor the verifier has seen.
evaluate --benchmarks=arith:train --num_examples=10000 --num_samples=4 --output_dir="$folder/training_samples"
python scripts/label_samples.py --output_dir="$folder/labelled" \
  --predictions "$folder/training_samples/predictions/arith-train.zero_shot_cot.samples.jsonl"
python -m cotdistill_jax.train --gin_file=gin/experiments/arith_verifier.gin --gin_file=gin/runs/finetune.gin \
  --gin.MODEL_DIR="'$folder/verifier'" --gin.INITIAL_CHECKPOINT_PATH="'$folder/student'"
evaluate --benchmarks=arith:test_2000 --output_dir="$folder/evaluation"
evaluate --benchmarks=arith:test_2000 --num_samples=16 --output_dir="$folder/evaluation"
python scripts/rerank.py --verifier="$folder/verifier" --output_dir="$folder/reranked" --batch_size=256 \
  --predictions "$folder/evaluation/predictions/arith-test_2000.zero_shot_cot.samples.jsonl" \
  --greedy "$folder/evaluation/predictions/arith-test_2000.zero_shot_cot.jsonl"
