#!/usr/bin/env bash
# From films to a trained network and back: makes two dozen films of which everything is known, prepares them, compares
# what was kept and dropped with the truth, trains stage 2 on the clips with people held out, tracks a photograph and a
# head, lets a portrait talk by both ways and compares them, and writes the published layout and reads it back.
# Some 30 minutes of one CPU core. What is there already is not made again: a run that was stopped goes on.
#
#   bash docs/tracking/films/demonstrate.sh FOLDER
#
# `triportrait fetch faces` brings the networks that find faces, once. FOLDER/log.txt is in README.md beside this file.
set -euo pipefail
top=$(cd "$(dirname "$0")/../../.." && pwd)
export PYTHONPATH=$top${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python}
mkdir -p "$1"
cd "$1"

say() { echo "\$ $*"; "$@"; }
job() { echo "\$ triportrait $*"; "$python" -m triportrait "$@"; }

{
[ -e truth.json ] || say "$python" -m docs.tracking.films.make .
job prepare videos films store --size 128 --motion demo --split 0.3
say "$python" -m docs.tracking.films.compare truth.json store
job prepare check store --deep

[ -e heads/index.json ] || job prepare heads --out heads --count 8 --expressions 4 --views 3
job train stage1 --data heads --out stage1 --images 40
[ -e static ] || job train export stage1 static
job train stage2 --data store --static static --flame open-head --out stage2 --images 40 --evaluate-every 20
grep held_out stage2/log.jsonl | tail -2

for film in photograph anna/plain two_cuts; do
  name=$(basename "$film")
  [ -e "tracked_$name" ] || job track "films/$film.mp4" "tracked_$name"
done
say "$python" -m docs.tracking.films.check pose marks/anna/plain.npz tracked_plain

portrait=$top/docs/demo/portrait.jpg
[ -e by_fit.mp4 ] || job reenact "$portrait" films/anna/plain.mp4 by_fit.mp4 --track fit --no-watermark
# pictures of the network's size are taken as they are: the frames are the same
[ -e tracked_128 ] || job track films/anna/plain.mp4 tracked_128 --size 128 --no-overlay --no-segment
[ -e by_files.mp4 ] || job reenact "$portrait" tracked_128 by_files.mp4 --no-watermark
say "$python" -m docs.tracking.films.check frames by_fit.mp4 by_files.mp4

[ -e tables ] || job prepare parameters store tables --frames 50
# The published LMDB wants 548 numbers of motion; a network of seeded weights gives them, which knows nothing of faces.
[ -e rule ] || say "$python" -m docs.tracking.films.check rule rule
job prepare videos films/anna wide --size 256 --motion rule
[ -e anna_256_2 ] || job prepare export wide anna_256_2
job prepare lmdb anna_256_2 wide_again
say "$python" -m docs.tracking.films.check tables wide wide_again
} 2>&1 | tee log.txt
