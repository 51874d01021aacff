#!/usr/bin/env bash
# Train and measure everything real in docs/beyond-the-paper.md and docs/pcm.md (estimated: five hours on a CPU core).
#
#   bash benchmarks/beyond_the_paper.sh ../shared/nih runs/study     # folder with NIH's tables and images, output
#
# What is finished is skipped, and a stopped training continues. OUTPUT gets table.md, table.csv, froc.png, examples.png,
# choose_boxes.csv and refinement; OUTPUT/saved has the models, ready for prediction.
# Another process may compute the rows of another seed in the same folder at the same time:
#   python -m benchmarks.study beyond-the-paper --data ../shared/nih --output runs/study --seeds 1 --rows strong_joint,strong
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,9s/^# \?//p' "$0" >&2; exit 2; }
DATA=$1 OUTPUT=$2
export PYTHONPATH=$(dirname "$0")/..${PYTHONPATH:+:$PYTHONPATH}
PYTHON=${PYTHON:-python}

JOINT=strong_joint,strong_joint_with_prior,strong_joint_without_mirror,strong_joint_without_window
STRONG=strong,with_prior,without_mirror,without_window,without_mirror_and_window,without_moments
STRONG+=,with_q_0.6,with_q_0.5,with_plain_contours
ONE_SEED=strong_gradcam,strong_joint_without_er,paper,paper_strong_at_test,paper_annealed,paper_annealed_strong_at_test
ONE_SEED+=,strong_half,strong_quarter,strong_eighth

rows() { # SEED OPTIONS
	"$PYTHON" -m benchmarks.study beyond-the-paper --data "$DATA" --output "$OUTPUT" --seeds "$@"
}

refiners() { # CHECKPOINT...
	"$PYTHON" -m benchmarks.study.refinement --data "$OUTPUT/data" --preset small --output "$OUTPUT" \
		--train-images 1000 --multires "$@"
}

for seed in 0 1; do
	rows $seed --rows $JOINT,$STRONG --save-models "$OUTPUT/saved"
done
rows 0 --rows $ONE_SEED
"$PYTHON" -m benchmarks.study.choose_boxes --output "$OUTPUT" --models "$OUTPUT/saved" \
	--rows strong,with_prior,strong_joint,strong_joint_with_prior
refiners "$OUTPUT"/saved/strong_joint.s{0,1}.safetensors
refiners "$OUTPUT/models/paper.s0.best.safetensors"
