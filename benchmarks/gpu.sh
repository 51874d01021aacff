#!/usr/bin/env bash
# Measure on a GPU, within nine minutes, on a fresh machine with PyTorch and without network access.
#
#   python benchmarks/gpu_prepare.py          # beforehand, with network access: wheels and images into build/gpu
#   bash benchmarks/gpu.sh OUT [PARTS]        # PARTS: letters of the parts, by default all, the most valuable first
#   bash benchmarks/gpu.sh OUT --smoke        # the whole script at toy size on the CPU
#
# Each part has its own limit and writes OUT/PART.json, one report a line, when a report is complete; an abort loses only
# the rest. OUT/log.txt has the errors, and the seconds and exit status of each command (124: it ran out of time).
#   a  training: both stages of both paper models       e  interrupt and continue
#   b  the PCM against the plain affinity               f  float16 with a gradient scaler
#   c  latencies of Table 4, also with CUDA graphs      g  rows of the study with their replicates (g.json.gz)
#   d  a full memory, recovered
# Part g takes what is left of the time. Its rows and seeds: ROWS=paper,strong_joint SEEDS=0,1,2 bash benchmarks/gpu.sh OUT g
# (python -m benchmarks.study beyond-the-paper --list names all rows).
set -uo pipefail

ROWS=${ROWS:-paper,strong_joint}
SEEDS=${SEEDS:-0,1,2,3,4}
ROW_OPTIONS=(--size 256 --backbone efficientnet_lite0 --epochs 9)
MODELS=(multires_resnet50 multires_efficientnet_b4)
PARTS=${2:-abcdefg}
LIMIT=515 # seconds for everything but the last files
SMOKE=() SLOWER=1
FILES=${FILES:-build/gpu} # of gpu_prepare.py

[ $# -ge 1 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
mkdir -p "$1" && OUT=$(cd "$1" && pwd) || exit 2
FILES=$(cd "$(dirname "$FILES")" 2> /dev/null && pwd)/$(basename "$FILES")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
PYTHON=${PYTHON:-python3}
if [ "$PARTS" = --smoke ]; then
	PARTS=abcdefg LIMIT=1800 SLOWER=6 MODELS=(multires_efficientnet_lite0) SMOKE=(--quick) ROWS=paper SEEDS=0
	ROW_OPTIONS=(--size 64 --epochs 1 --n-bootstrap 20)
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
	local part=$1 limit=$(($2 * SLOWER)) left=$((LIMIT - SECONDS)) started=$SECONDS status
	shift 2
	[[ $PARTS == *$part* ]] || return 0
	[ "$left" -gt 5 ] || { echo "== $part: no time left for $*" >> "$LOG"; return 0; }
	timeout --kill-after=5 $((left < limit ? left : limit)) "$@" > "$WORK/printed" 2>> "$LOG"
	status=$?
	[ $status -ne 0 ] || tail -n 1 "$WORK/printed" | grep '^{' >> "$OUT/$part.json"
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
for model in "${MODELS[@]}"; do
	run a 130 "${step[@]}" --model "$model" --epoch $((${#SMOKE[@]} ? 8 : 32800))
done
for model in "${MODELS[@]}"; do
	run a 60 "${step[@]}" --model "$model" --seam
done
run b 45 "$PYTHON" benchmarks/pcm.py --json "${SMOKE[@]}"
run c 45 "$PYTHON" benchmarks/inference.py --json "${SMOKE[@]}"
[ ${#SMOKE[@]} -ne 0 ] || run c 45 "$PYTHON" benchmarks/inference.py --json --cuda-graphs
run d 40 "$PYTHON" benchmarks/gpu_checks.py oom "${SMOKE[@]}"
run e 75 "$PYTHON" benchmarks/gpu_checks.py resume "${SMOKE[@]}"
run f 40 "${step[@]}" --model "${MODELS[0]}" --fp16
if [[ $PARTS == *g* ]]; then
	"$PYTHON" -m zipfile -e "$FILES/images.zip" "$WORK/nih" 2>> "$LOG"
	run g "$LIMIT" "$PYTHON" -m benchmarks.study beyond-the-paper --data "$WORK/nih" --output "$WORK/study" \
		--rows "$ROWS" --seeds "$SEEDS" "${ROW_OPTIONS[@]}"
	LIMIT=$((SECONDS + 20 * SLOWER))
	run g 20 "$PYTHON" benchmarks/gpu_checks.py rows "$WORK/study" && gzip -f "$OUT/g.json"
fi
echo "$SECONDS s in all; results: $OUT"
