"""Take the network of blendshapes out of a user's face_landmarker.task, keep it in the cache, and load it again."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triportrait.core.atomic import put_folder, sync
from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.faces.blendshapes import Blendshapes
from triportrait.core.faces.graph import Graph
from triportrait.core.faces.model_files import MOST_READ, ZIP_DAMAGE, SmallReads, making, writing
from triportrait.core.faces.models import BLENDSHAPES_FOLDER, INDEX, LICENCE, models_folder
from triportrait.core.faces.point_operators import check_point_graph
from triportrait.core.faces.store import load_graph, save_graph
from triportrait.core.faces.tflite import parse_tflite
from triportrait.core.files import opened, read_json
from triportrait.core.safe_text import shown

MEMBER, KEPT = "face_blendshapes.tflite", "face_blendshapes.safetensors"
COMMAND = "triportrait fetch faces --task face_landmarker.task"
MOST_TASK = 64 << 20  # bytes of the task; the published ones have 4 MB
MOST_MEMBERS = 64
MOST_NETWORK = 8 << 20  # bytes; the published network has 1 MB
ROOM = 4 * MOST_NETWORK
_WANTED = "expected mediapipe's face_landmarker.task"


def read_task(path: Path) -> bytes:
    """Read the network of blendshapes out of a task, which is a zip file; nothing else in it is looked at.

    Returns:
        The bytes of a TFLite file.

    Raises:
        InputError: it is none, has no such network, or is damaged, too large or packed in a way that no task is.
    """
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_TASK:
                raise _refusal(path, f"a file of {size:,} bytes")
            try:
                archive = zipfile.ZipFile(SmallReads(file))  # type: ignore[arg-type]
                members = [entry for entry in archive.infolist() if entry.filename == MEMBER]
                if len(archive.infolist()) > MOST_MEMBERS or len(members) != 1:
                    raise _refusal(path, f"one with {len(members)} files {MEMBER} of {len(archive.infolist())}")
                (entry,) = members
                if entry.file_size > MOST_NETWORK:
                    raise _refusal(path, f"one whose {MEMBER} has {entry.file_size:,} bytes")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _refusal(path, f"one with compression {entry.compress_type}")
                with archive.open(entry) as member:  # it gives no more than it declares
                    return b"".join(iter(lambda: member.read(MOST_READ // 4), b""))
            except InputError:
                raise
            except ZIP_DAMAGE as error:
                raise _refusal(path, f"a file that is no zip file or is damaged ({shown(str(error))})") from error
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: {_WANTED}, it cannot be read ({reason}); check the path") from error


def keep_blendshapes(path: Path) -> Path:
    """Take the network out of a task and write it to the cache, whole or not at all; one that is there is replaced.

    Returns:
        The folder in which it is now.

    Raises:
        InputError: the task is not what it should be, or the cache cannot be written.
    """
    data = read_task(path)
    where = f"{path}, {MEMBER}"
    graph = parse_tflite(data, where, check_point_graph)
    _network(graph, where)
    folder = models_folder(BLENDSHAPES_FOLDER)
    found = hashlib.sha256(data).hexdigest()
    with making(folder, ROOM, (KEPT, INDEX)) as work, writing(folder):
        part = work / "kept"
        part.mkdir()
        kept = save_graph(graph, part / KEPT, f"{MEMBER} of a face_landmarker.task, SHA-256 {found}", LICENCE)
        _network(load_graph(kept, check_point_graph), str(kept))
        index = {KEPT: {"made_from": found, **fingerprint(kept)}}
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        for one in (*part.iterdir(), part):
            sync(one)
        put_folder(part, folder, work / "replaced", synced=True)
    return folder


def load_blendshapes() -> Blendshapes | None:
    """Load the network from the cache; None where none was put there.

    Raises:
        InputError: it is not what was written, or the user has no home folder.
    """
    folder = models_folder(BLENDSHAPES_FOLDER)
    if not folder.exists():
        return None
    advice = f"run `{COMMAND}` again, or remove the folder"
    try:
        index: Any = read_json(folder / INDEX)
        entry = index.get(KEPT) if isinstance(index, Mapping) else None
        said = {"made_from": entry.get("made_from"), **fingerprint(folder / KEPT)} if isinstance(entry, dict) else None
        if entry is None or entry != said:
            raise ValueError(f"{KEPT} is not what was written")
        return _network(load_graph(folder / KEPT, check_point_graph), str(folder / KEPT))
    except (OSError, ValueError, InputError) as error:
        reason = (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)
        raise InputError(f"face blendshapes: those in {folder} are damaged ({shown(reason)}); {advice}") from error


def _network(graph: Graph, where: str) -> Blendshapes:
    try:
        return Blendshapes(graph)
    except ValueError as error:
        raise InputError(f"{where}: expected mediapipe's network of blendshapes, got one that {error}; give a "
                         "face_landmarker.task with blendshapes") from error  # fmt: skip


def _refusal(path: Path, got: str) -> InputError:
    return InputError(f"{path}: {_WANTED}, got {got}; fetch it again from where mediapipe publishes its models")
