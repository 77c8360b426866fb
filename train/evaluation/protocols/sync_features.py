"""Reads what SyncNet says of a result's lips and of the driving clip's sound, a row for each window of five frames.

SyncNet looks at 25 frames a second: of other rates the nearest frame is taken at each 1/25 s. The face's box is that of
its 68 landmarks. Letters: T frames at 25 a second, n windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.metrics.full_precision import full_precision
from triportrait.core.metrics.mfcc import RATE
from triportrait.core.metrics.networks import Loaded
from triportrait.core.metrics.sync_crop import face_track, sync_crop
from triportrait.core.metrics.syncnet import FRAMES, SyncNet, embed_face_windows, embed_sound_windows, num_windows
from triportrait.serve.media.video.clips import open_clip, opened, sound_stream

FPS = 25
VERSION = "1"  # of what is done here
LONGEST_S = 4000  # of sound that is read


class LipSync:
    """Embeds lips and sound.

    Args:
        loaded: SyncNet.
    """

    need = "weights:syncnet"
    fields = ("lip_embedding", "sound_embedding")

    def __init__(self, loaded: Loaded) -> None:
        self.identity = f"{VERSION} {loaded.identity}"
        assert isinstance(loaded.network, SyncNet)
        self.network = loaded.network

    @full_precision()
    def embed(
        self, frames: Iterable[np.ndarray], landmarks: np.ndarray, found: np.ndarray, fps: float, sound: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embed a result and the sound that drove it.

        Args:
            frames: N frames of the result, uint8 [S, S, 3] each; they are read once.
            landmarks: [N, 68, 3] of them. found: bool [N], where a face was found.
            fps: their rate. sound: int16 [L], mono, 16 kHz, from the first frame on.

        Returns:
            Lips [n, 1024], sound [n, 1024], and bool [n], the windows in whose every frame a face was found.

        Raises:
            InputError: the sound is silent, or the clip is too short, or shows no face.
        """
        if not found.any():
            raise InputError("SyncNet: expected a face in the result, found none; leave this clip out")
        numbers = at_25_fps(len(found), fps)
        track = face_track(_boxes(landmarks, found)[numbers])
        windows = num_windows(len(numbers))
        heard = embed_sound_windows(self.network, sound).numpy()
        lips = embed_face_windows(self.network, _crops(frames, numbers, track)).numpy()
        count = min(windows, len(heard), len(lips))
        seen = np.asarray(np.lib.stride_tricks.sliding_window_view(found[numbers], FRAMES).all(axis=1))
        return lips[:count], heard[:count], seen[:count]


def at_25_fps(count: int, fps: float) -> np.ndarray:
    """Return which of `count` frames of a rate is nearest to each 1/25 s: int [T]."""
    times = np.arange(max(1, int(np.floor((count - 1) * FPS / fps + 1e-6)) + 1)) / FPS
    return np.minimum(np.rint(times * fps).astype(int), count - 1)


def sound_of(path: Path, first_s: float, length_s: float) -> np.ndarray:
    """Read the sound of a clip as SyncNet takes it, from a time after the clip's first frame on.

    Returns:
        int16 [L], mono, 16 kHz.

    Raises:
        InputError: the clip has no sound, or it does not decode.
    """
    import av

    start = round((float(open_clip(path).start_s) + first_s) * RATE)
    wanted = round(min(length_s, LONGEST_S) * RATE)
    samples = np.zeros(wanted, np.int16)
    heard = False
    with opened(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise InputError(f"{path}: expected a clip with sound, got none; leave this clip out")
        resampler = av.AudioResampler("s16", "mono", RATE)
        try:
            for frame in container.decode(stream):
                for piece in resampler.resample(frame):
                    at = round((piece.pts or 0) * Fraction(piece.time_base or Fraction(1, RATE)) * RATE) - start
                    values = piece.to_ndarray().reshape(-1)
                    low, high = max(0, at), min(wanted, at + len(values))
                    if low < high:
                        samples[low:high] = values[low - at : high - at]
                        heard = True
                    if at >= wanted:
                        return samples
        except av.FFmpegError as error:
            raise InputError(f"{path}: its sound does not decode ({error}); copy the clip again") from error
    if not heard:
        raise InputError(f"{path}: expected sound beside its frames, got none; leave this clip out")
    return samples


def _boxes(landmarks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the boxes [N, 4] of landmarks; those of frames without a face lie between their neighbours'."""
    boxes = np.concatenate([landmarks[..., :2].min(1), landmarks[..., :2].max(1)], 1)
    places = np.arange(len(found))
    return np.stack([np.interp(places, places[found], boxes[found, side]) for side in range(4)], 1)


def _crops(frames: Iterable[np.ndarray], numbers: np.ndarray, track: np.ndarray) -> Iterator[np.ndarray]:
    """Crop the frames of ascending numbers, some of which may come twice."""
    wanted = 0
    for number, frame in enumerate(frames):
        while wanted < len(numbers) and numbers[wanted] == number:
            yield sync_crop(frame, *track[wanted])
            wanted += 1
