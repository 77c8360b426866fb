"""Check a mesh as strangers' programs see it: `python docs/mesh/check.py head.glb NODE_MODULES [picture.png]`.

NODE_MODULES is the folder of that name after `npm install gltf-validator three`. The file must pass the validator of
the glTF project without an error or a warning, trimesh must read what was written, and three.js must draw it in
Chromium, whose picture from four sides is kept. A .ply or .obj is read by trimesh alone.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import trimesh

HERE = Path(__file__).parent
CHROMIUM = ("--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def read_back(path: Path) -> None:
    """Read a mesh with trimesh and print what it is; seams are closed first, as they have several vertices."""
    mesh = trimesh.load(path, force="mesh", process=False)
    closed = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    closed.merge_vertices(merge_tex=True, merge_norm=True)
    size = " x ".join(f"{extent * 100:.1f}" for extent in mesh.extents)
    print(
        f"trimesh: {len(mesh.vertices)} vertices, {len(mesh.faces)} triangles, {size} cm, "
        f"{closed.volume * 1000:.2f} l, watertight: {closed.is_watertight}, {type(mesh.visual).__name__}"
    )
    assert closed.volume > 0, "the triangles look inwards"


def validate(path: Path, modules: Path) -> None:
    """Let the glTF project's validator judge a file."""
    done = subprocess.run(
        ["node", str(HERE / "check.mjs"), str(modules.resolve()), str(path)], capture_output=True, text=True, check=True
    )
    issues = json.loads(done.stdout)["issues"]
    print({name: issues[name] for name in ("numErrors", "numWarnings", "numInfos", "numHints")})
    for message in issues["messages"]:
        print(f"  {message['code']} {message.get('pointer', '')}: {message['message']}")
    assert not issues["numErrors"] and not issues["numWarnings"], "the validator is not content"


def draw(path: Path, modules: Path, picture: Path) -> None:
    """Let three.js draw a file from four sides in Chromium, without a GPU."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(path, folder / "head.glb")
        shutil.copy(HERE / "view.html", folder / "view.html")
        (folder / "node_modules").symlink_to(modules.resolve())
        handler = functools.partial(_Quiet, directory=name)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            subprocess.run(
                [
                    "chromium", *CHROMIUM, f"--user-data-dir={folder / 'profile'}", "--window-size=1440,360",
                    "--virtual-time-budget=20000", f"--screenshot={picture.resolve()}",
                    f"http://127.0.0.1:{server.server_port}/view.html",
                ],
                capture_output=True, check=True, timeout=180,
            )  # fmt: skip
            server.shutdown()
    print(f"three.js: {picture}")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def main() -> None:
    """Check the file that the command line names."""
    path, *others = map(Path, sys.argv[1:])
    read_back(path)
    if path.suffix == ".glb":
        validate(path, others[0])
        draw(path, others[0], others[1] if len(others) > 1 else path.with_suffix(".png"))


if __name__ == "__main__":
    main()
