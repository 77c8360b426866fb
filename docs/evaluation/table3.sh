#!/usr/bin/env bash
# Trains rows B, C and K of the paper's Table 3 at the preset tiny, for a few hundred images each, measures them by the
# protocol p4d-table3 on clips of heads that no training saw, and lays them below the published rows.
# Some 15 minutes of one CPU core; whatever is there already is not made again.
#
#   bash table3.sh FOLDER [NETWORKS]
#
# NETWORKS is the folder of your metric networks, see protocols.md. Without it they are made by rule: their numbers check
# the way from training to the table, are marked, and say nothing about pictures.
# `triportrait fetch faces` brings the networks that find faces, once.
set -euo pipefail
mkdir -p "$1"
networks=rule
[ $# -lt 2 ] || networks=$(realpath "$2")
cd "$1"
rows="B C K"

triportrait prepare heads --out heads --count 16 --expressions 8 --views 3
triportrait prepare clips --out clips --count 6 --frames 12 --seed 1
triportrait train stage1 --data heads --out stage1 --images 1000
[ -e static ] || triportrait train export stage1 static
for row in $rows; do
  triportrait train stage2 --ablation "$row" --data heads --static static --out "run-$row" --images 320
  [ -e "weights-$row" ] || triportrait train export "run-$row" "weights-$row"
done

triportrait evaluate protocol clips --kind p4d-table3 --size 128 --overwrite
for row in $rows; do
  triportrait evaluate run clips/p4d-table3.jsonl --weights "weights-$row" --out "R-$row" --method "$row"
  triportrait evaluate score "R-$row" --protocol clips/p4d-table3.jsonl --networks "$networks"
done
triportrait evaluate table --paper 3 $(printf 'R-%s ' $rows) --protocol clips/p4d-table3.jsonl --out table3 --overwrite
triportrait evaluate figure self weights-K --static static --heads 3 --out self.png --overwrite
