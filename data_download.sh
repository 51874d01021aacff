#!/usr/bin/env bash
# Downloads NIH ChestX-ray14 and prepares it, one archive at a time; see --help and cxr_seam/data/download.py.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import cxr_seam.data.download, requests' 2>/dev/null || {
	echo "data_download.sh: $python cannot import cxr_seam; run '$python -m pip install $here' first" >&2
	exit 1
}
exec "$python" -m cxr_seam.data.download "$@"
