#!/usr/bin/env bash
# From images to a measured INT8 detector, in ten commands.
#
#   bash train/pipeline.sh demo                      the embedded data set, minutes
#   bash train/pipeline.sh cifake DATA OUT           CIFAKE, hours on two cores
#
# Stopped at any moment (Ctrl-C), the same command goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

story=${1:?"give the story: demo or cifake"}
out=${3:-demo}
data=${2:-$out/data}
seconds=10
[ "$story" != demo ] || seconds=2
mkdir -p "$out"

todo() { [ ! -e "$1/manifest.json" ]; } # an artifact is written whole or not at all

# 1. Real photographs, and the same through simulated generators.
[ "$story" != demo ] || [ -e "$data/index.csv" ] || edgedet data simulate "$data"

# 2. What the images are: labels, generators, splits, formats, checksums.
[ -e "$out/index.csv" ] || edgedet data scan "$data" --out "$out/index.csv"
export EDGEDET_DATA="$out/index.csv"

# 3. A full-precision teacher.
! todo "$out/teacher" || edgedet train "$story-teacher" --out "$out/teacher" --resume

# 4. A small student that learns from it.
! todo "$out/student" || edgedet distill "$story-student" --teacher "$out/teacher" --out "$out/student" --resume

# 5. The student without the channels that it can do without.
! todo "$out/pruned" || edgedet prune "$story-prune" --from "$out/student" --teacher "$out/teacher" --out "$out/pruned" --resume

# 6. Graphs for this machine, in full precision: what the speed-ups are over.
for name in teacher student pruned; do
  ! todo "$out/$name-fp32" || edgedet export "$out/$name" --target host --data "$EDGEDET_DATA" --out "$out/$name-fp32"
done

# 7. Eight bits.
! todo "$out/int8" || edgedet export "$out/pruned" --int8 --target host --data "$EDGEDET_DATA" --out "$out/int8"

# 8. What did it cost on images that have been through a platform?
edgedet eval "$out/int8" --degrade web --degrade hard --against "$out/teacher-fp32"

# 9. Where did it come from?
edgedet show "$out/int8" --verify

# 10. All of them side by side, in one run, on the test split; the lines of an earlier run are replaced.
rm -f "$out/bench.jsonl"
edgedet bench "$out/teacher-fp32" "$out/student-fp32" "$out/pruned-fp32" "$out/int8" \
  --data "$EDGEDET_DATA" --split test --seconds "$seconds" --record "$out/bench.jsonl" --markdown "$out/bench.md"
