#!/usr/bin/env bash
# The README's table, from images to result lines: the CIFAKE detectors as they are compressed, and the other detectors' speed beside
# the RTX 3090's. Hours on two CPU cores; stopped at any moment, it goes on.
#
#   EDGEDET_DATA=cifake.tar.xz bash benchmarks/cifake.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."

data=${EDGEDET_DATA:-}
if [ -z "$data" ]; then
  echo "skipped: set EDGEDET_DATA to CIFAKE (a folder or an archive with train/ and test/, each with REAL/ and FAKE/)"
  exit 0
fi
out=${1:-runs/cifake}
results=benchmarks/results

bash train/pipeline.sh cifake "$data" "$out"
lines=$results/cpu-x86-$(date +%F).jsonl
rm -f "$lines"
python benchmarks/fleet.py "$out"/{teacher,student,pruned}-fp32 "$out/int8" --data "$out/index.csv" --record "$lines"
python benchmarks/fleet.py --draw "$lines"
