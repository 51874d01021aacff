#!/usr/bin/env bash
# Measure on a GPU, within nine minutes, on a fresh machine with PyTorch and without network access.
#
#   python benchmarks/gpu_prepare.py          # beforehand, with network access: wheels and images into build/gpu
#   bash benchmarks/gpu.sh OUT [PARTS]        # PARTS: letters of the parts, by default a to f
#   bash benchmarks/gpu.sh OUT g              # part g needs a call of its own
#   bash benchmarks/gpu.sh OUT --smoke        # the whole script at toy size on the CPU
#
# Each command has a limit and adds its report to OUT/PART.json, as one line, when it is complete; an abort loses only
# the rest. OUT/log.txt has the errors, and the seconds and exit status of each command (124: it ran out of time).
#   a  training: both stages of both paper models       e  interrupt and continue
#   b  the PCM against the plain affinity               f  float16 with a gradient scaler
#   c  latencies of Table 4, also with CUDA graphs      g  rows of the study with their replicates (g.json.gz)
#   d  a full memory, recovered
# The studies of part g run at the same time, each in a process of its own:
#   ROWS=strong_joint STUDIES="efficientnet_lite0:128:2 efficientnet_lite0:256:0" bash benchmarks/gpu.sh OUT g
# trains the rows for each backbone:size:seed (python -m benchmarks.study beyond-the-paper --list names all rows), and
# with KEEP=1 the models, ready for prediction, are written to OUT/BACKBONE.SIZE.
set -uo pipefail

ROWS=${ROWS:-strong_joint}
LITE0=efficientnet_lite0
STUDIES=${STUDIES:-$LITE0:192:0 $LITE0:192:1 $LITE0:256:0 $LITE0:256:1}
KEEP=${KEEP:-}
ROW_OPTIONS=(--epochs 9)
MODELS=(multires_resnet50 multires_efficientnet_b4)
EPOCHS=(32800 8200) # images of the epoch that is timed, for each model
PARTS=${2:-abcdef}
LIMIT=515 # seconds for everything but the last files
SMOKE=() SLOWER=1
FILES=${FILES:-build/gpu} # of gpu_prepare.py

[ $# -ge 1 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
mkdir -p "$1" && OUT=$(cd "$1" && pwd) || exit 2
FILES=$(cd "$(dirname "$FILES")" 2> /dev/null && pwd)/$(basename "$FILES")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
PYTHON=${PYTHON:-python3}
if [ "$PARTS" = --smoke ]; then
	PARTS=abcdefg LIMIT=1800 SLOWER=6 MODELS=(multires_efficientnet_lite0) EPOCHS=(8) SMOKE=(--quick)
	ROWS=paper STUDIES=efficientnet_lite0:64:0 ROW_OPTIONS=(--epochs 1 --n-bootstrap 20)
	export CUDA_VISIBLE_DEVICES=
fi
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
LOG=$OUT/log.txt
: > "$LOG"
for part in a b c d e f g; do
	[[ $PARTS != *$part* ]] || rm -f "$OUT/$part.json" "$OUT/$part.json.gz"
done

# run PART LIMIT COMMAND...: append the report, the last line that it prints, to OUT/PART.json, if it succeeds in time.
run() {
	local part=$1 limit=$(($2 * SLOWER)) left=$((LIMIT - SECONDS)) started=$SECONDS status report
	shift 2
	[[ $PARTS == *$part* ]] || return 0
	[ "$left" -gt 5 ] || { echo "== $part: no time left for $*" >> "$LOG"; return 0; }
	local printed=$WORK/printed.$BASHPID
	timeout --kill-after=5 $((left < limit ? left : limit)) "$@" > "$printed" 2> "$printed.errors"
	status=$?
	cat "$printed.errors" >> "$LOG"
	if [ $status -eq 0 ] && report=$(tail -n 1 "$printed" | grep '^{'); then echo "$report" >> "$OUT/$part.json"; fi
	echo "== $part: status $status, $((SECONDS - started)) s: $*" | tee -a "$LOG"
	return $status
}

if [ ${#SMOKE[@]} -eq 0 ]; then
	nvidia-smi >> "$LOG" 2>&1
	if compgen -G "$FILES/wheels/*.whl" > /dev/null; then
		"$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" \
			"$FILES"/wheels/*.whl >> "$LOG" 2>&1
	fi
fi
export PYTHONPATH=$PWD:$WORK/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

step=("$PYTHON" benchmarks/train_step.py --json --rounds 3 "${SMOKE[@]}")
for i in "${!MODELS[@]}"; do
	run a 130 "${step[@]}" --model "${MODELS[i]}" --epoch "${EPOCHS[i]}"
done
for model in "${MODELS[@]}"; do
	run a 90 "${step[@]}" --model "$model" --seam
done
run b 45 "$PYTHON" benchmarks/pcm.py --json "${SMOKE[@]}"
run c 45 "$PYTHON" benchmarks/inference.py --json "${SMOKE[@]}"
[ ${#SMOKE[@]} -ne 0 ] || run c 45 "$PYTHON" benchmarks/inference.py --json --cuda-graphs
run d 40 "$PYTHON" benchmarks/gpu_checks.py oom "${SMOKE[@]}"
run e 140 "$PYTHON" benchmarks/gpu_checks.py resume "${SMOKE[@]}"
run f 40 "${step[@]}" --model "${MODELS[0]}" --fp16
if [[ $PARTS == *g* ]]; then
	for archive in "$FILES"/images*.zip; do
		"$PYTHON" -m zipfile -e "$archive" "$WORK/nih" 2>> "$LOG"
	done
	export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # of each study; together they use all cores
	for study in $STUDIES; do
		IFS=: read -r backbone size seed <<< "$study"
		run g "$LIMIT" "$PYTHON" -m benchmarks.study beyond-the-paper --data "$WORK/nih" --output "$WORK/studies/$study" \
			--rows "$ROWS" --backbone "$backbone" --size "$size" --seeds "$seed" "${ROW_OPTIONS[@]}" \
			${KEEP:+--save-models "$OUT/$backbone.$size"} &
	done
	wait
	LIMIT=$((SECONDS + 20 * SLOWER))
	run g 20 "$PYTHON" benchmarks/gpu_checks.py rows "$WORK/studies" && gzip -f "$OUT/g.json"
fi
echo "$SECONDS s in all; results: $OUT"
