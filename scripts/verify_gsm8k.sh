#!/usr/bin/env bash
# A verifier for GSM8K: a student's samples of the training problems, labels, verifier, choices among samples of the test problems, one table.
#
#     bash scripts/verify_gsm8k.sh STUDENT [FOLDER [TRAINING FLAGS]]        (default: runs/gsm8k_verifier)
#
# STUDENT is a run folder or a Hugging Face folder, best one that is right on half of the training problems. A student of another size than
# FlanT5-base: bash scripts/verify_gsm8k.sh runs/xl runs/xl_verifier --gin_file=gin/models/flan_t5_xl.gin
# The same command goes on where it was interrupted. Variables, for less work: TRAINING_QUESTIONS (default 7273), TRAINING_SAMPLES (8),
# VALIDATION_QUESTIONS (200), TEST_QUESTIONS (1319), TEST_SAMPLES (16), BATCH_SIZE (64) of decoding.
set -euo pipefail
if [ $# -eq 0 ]; then
  echo "verify_gsm8k: give the student's folder: bash scripts/verify_gsm8k.sh STUDENT [FOLDER [TRAINING FLAGS]]" >&2
  exit 1
fi
student=$1
if [ -e "$student" ]; then student=$(realpath "$student"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh ""
folder=${2:-runs/gsm8k_verifier}
shift $(($# < 2 ? $# : 2))
export COTDISTILL_VERIFIER_DIR=$folder/labelled

evaluate() {
  python -m cotdistill_jax.inference --checkpoint="$student" --prompt=zero_shot_cot --batch_size="${BATCH_SIZE:-64}" "$@"
}

evaluate --benchmarks=gsm8k:train --num_examples="${TRAINING_QUESTIONS:-7273}" --num_samples="${TRAINING_SAMPLES:-8}" \
  --output_dir="$folder/training_samples"
python scripts/label_samples.py --output_dir="$folder/labelled" --validation_questions="${VALIDATION_QUESTIONS:-200}" \
  --predictions "$folder/training_samples/predictions/gsm8k-train.zero_shot_cot.samples.jsonl"
python -m cotdistill_jax.train --gin_file=gin/experiments/gsm8k_verifier.gin --gin_file=gin/runs/finetune.gin \
  --gin.MODEL_DIR="'$folder/verifier'" --gin.INITIAL_CHECKPOINT_PATH="'$student'" "$@"
evaluate --benchmarks=gsm8k --num_examples="${TEST_QUESTIONS:-1319}" --output_dir="$folder/evaluation"
evaluate --benchmarks=gsm8k --num_examples="${TEST_QUESTIONS:-1319}" --num_samples="${TEST_SAMPLES:-16}" --output_dir="$folder/evaluation"
python scripts/rerank.py --verifier="$folder/verifier" --output_dir="$folder/reranked" --batch_size="${BATCH_SIZE:-64}" \
  --predictions "$folder/evaluation/predictions/gsm8k.zero_shot_cot.samples.jsonl" \
  --greedy "$folder/evaluation/predictions/gsm8k.zero_shot_cot.jsonl"
