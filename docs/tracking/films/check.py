"""Checks of what the demonstration made; each prints its figures and ends with 1 where they are not as they should be.

python -m docs.tracking.films.check pose MARKS.npz TRACKED     turns of a tracked head against the true ones
python -m docs.tracking.films.check frames ONE.mp4 OTHER.mp4   two films show the same frames
python -m docs.tracking.films.check tables STORE OTHER         two clip stores hold the same numbers
python -m docs.tracking.films.check rule OUT                   make a motion encoder of PD-FGC's shape, seeded weights
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from triportrait.core.checkpoint import save_weights
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.seeded_weights import rule_motion_encoder
from triportrait.core.tracking.records import columns_of
from triportrait.serve.media.video.clips import open_clip
from triportrait.train.data.clip_store.store import ClipStore

MOST_TURNED_DEG = 8.0  # on average, of landmarks that networks found
MOST_LEVELS = 1.0  # on average, of frames that were encoded


def pose_error_deg(marks: Path, tracked: Path) -> np.ndarray:
    """Compute how far the turn of a tracked head is from the true one, degrees for each frame that has parameters."""
    with np.load(marks) as true:
        turns = rotation_matrices(torch.from_numpy(true["neck"]).double())
    files = sorted((tracked / "flame_optim_params").glob("*.npy"))
    numbers = [int(path.stem) - 1 for path in files]
    records = torch.from_numpy(np.stack([np.load(path) for path in files])).double()
    apart = rotation_matrices(columns_of(records)["neck"]) @ turns[numbers].mT
    cosine = (apart.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return np.degrees(np.arccos(cosine.clamp(-1, 1).numpy()))


def levels_apart(one: Path, other: Path) -> tuple[int, float, int]:
    """Compare two films: their frames, and by how many of 255 levels they differ, on average and at most."""
    sums, most, count = 0.0, 0, 0
    for a, b in zip(open_clip(one).frames(), open_clip(other).frames(), strict=True):
        off = np.abs(a.image.astype(int) - b.image)
        sums, most, count = sums + float(off.mean()), max(most, int(off.max())), count + 1
    return count, sums / count, most


def tables_apart(one: Path, other: Path) -> tuple[int, dict[str, float]]:
    """Compare the tables of two clip stores, clip by clip in their order: clips, and the largest difference by name."""
    stores = [ClipStore(one), ClipStore(other)]
    counts = [len(store.frames_of) for store in stores]
    if counts[0] != counts[1]:
        raise ValueError(f"{one} has {counts[0]} clips, {other} {counts[1]}")
    worst: dict[str, float] = {}
    for number in range(counts[0]):
        a, b = (store.table(number) for store in stores)
        for name in sorted({"camera", "shape", "expression", "pose", "eyes", "motion", "mask"} & {*a} & {*b}):
            off = np.abs(a[name].astype(np.float64) - b[name]).max()
            worst[name] = max(worst.get(name, 0.0), float(off))
    return counts[0], worst


def main() -> int:
    """Run one check."""
    what, *places = sys.argv[1:]
    one, *others = map(Path, places)
    if what == "pose":
        off = pose_error_deg(one, others[0])
        print(f"{others[0]}: {len(off)} frames, turned wrongly by {off.mean():.1f} degrees, {off.max():.1f} at most")
        return int(off.mean() > MOST_TURNED_DEG)
    if what == "frames":
        count, mean, most = levels_apart(one, others[0])
        print(f"{one}, {others[0]}: {count} frames, {mean:.3f} of 255 levels apart on average, {most} at most")
        return int(mean > MOST_LEVELS)
    if what == "tables":
        clips, worst = tables_apart(one, others[0])
        print(f"{one}, {others[0]}: {clips} clips, largest differences: {worst}")
        return int(not worst or any(worst.values()))
    if what == "rule":
        motion = {n: t for n, t in rule_motion_encoder().state_dict().items() if not n.endswith("num_batches_tracked")}
        save_weights(one, "motion", motion, None, {})
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
