#!/usr/bin/env bash
# The whole of the paper at the preset tiny, from raw films to a measured, talking head: a GAN of heads (GenHead) learns
# from stills, draws the heads from which stage 1 learns a static synthesizer, which draws the pseudo views from which
# stage 2 learns to reenact; the result is measured, and its mesh is made. The trainings are as short as they can be:
# this shows that every part hands on what the next one needs, not a good network.
# What is there already is not made again: a run that was stopped goes on.
#
#   bash docs/train/whole.sh FOLDER
#
# `triportrait fetch faces` brings the networks that find faces, once. FOLDER/log.txt keeps what is said; whole.txt is one.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH=$top${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python}
mkdir -p "$1"
cd "$1"

say() { echo "\$ python ${*:2}"; "$@"; }
job() { echo "\$ triportrait ${*//"$top/"/}"; "$python" -m triportrait "$@"; }

# keeps of a progress bar its end, in the log of a step that failed, too
ends_of_bars() { LC_ALL=C awk '{ sub(/.*\r/, ""); print }' log.txt > log.part; mv log.part log.txt; }
trap ends_of_bars EXIT

{
# films and stills as somebody finds them, and the parameters of the heads in them
[ -e raw/truth.json ] || say "$python" -m docs.tracking.films.make raw
[ -e stills ] || say "$python" -m docs.train.stills raw/films stills
job prepare pictures stills pictures --size 128
job prepare videos raw/films clips --size 128 --motion demo --split 0.3
[ -e tables ] || job prepare parameters pictures clips tables --frames 50

# the 4D GAN, and the heads that it draws
job train genhead --data pictures --out run_genhead --images 320
[ -e genhead ] || job train export run_genhead genhead
job prepare genhead heads --weights genhead --parameters tables --count 64
job prepare check heads

# stage 1 learns from them, stage 2 from the clips and stage 1's pseudo views
job train stage1 --data heads --genhead genhead --out run_stage1 --images 400 --renderer-frozen-until 40
[ -e static ] || job train export run_stage1 static
job train stage2 --data clips --static static --flame open-head --out run_stage2 --batch 2 --images 1400 --evaluate-every 700
[ -e weights ] || job train export run_stage2 weights

# the paper's Table 1 on two of the films, networks of metrics by rule; a mesh of a photograph
mkdir -p measured
for name in anna ben; do [ -e "measured/$name.mp4" ] || cp "raw/films/$name/plain.mp4" "measured/$name.mp4"; done
[ -e measured/p4d-table1.jsonl ] || job evaluate protocol measured --crop aligned --size 128 --frames 12
job evaluate run measured/p4d-table1.jsonl --weights weights --out results
job evaluate score results --protocol measured/p4d-table1.jsonl --networks rule
job evaluate table results --protocol measured/p4d-table1.jsonl --out table --overwrite
job mesh "$top/docs/demo/portrait.jpg" head.glb --weights weights --resolution 128 --overwrite
echo "$SECONDS s in all"
} 2>&1 | tee log.txt
