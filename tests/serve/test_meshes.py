"""The command mesh and Pipeline.mesh: files that others read, their colours, what is refused, sequences that go on."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image

from triportrait import InputError, Pipeline
from triportrait.cli import main
from triportrait.serve import head_meshes
from triportrait.serve.faces.providers import LazyProvider
from triportrait.serve.head_meshes import MeshOptions
from triportrait.serve.jobs import mesh as mesh_job
from triportrait.serve.media.meshes import mesh_file
from triportrait.serve.media.meshes.glb import linear
from triportrait.serve.media.meshes.mesh_file import HeadMesh
from triportrait.serve.media.meshes.sequence import MeshSequence
from triportrait.serve.media.provenance.watermark import Watermark, message_of
from triportrait.serve.source_and_driving import DrivingFrames

SMALL = MeshOptions(resolution=40, triangles=1500, texture_size=256)
FEW = ["--resolution", "24", "--triangles", "300", "--texture-size", "64", "--faces", "none", "--weights", "demo"]


@pytest.fixture(scope="module")
def pipe():
    with Pipeline.from_pretrained("demo", device="cpu", faces="none") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def mesh(pipe) -> HeadMesh:
    return pipe.mesh("docs/demo/portrait.jpg", options=SMALL)


def glb_parts(content: bytes) -> tuple[dict, bytes]:
    magic, version, length, size, kind = struct.unpack_from("<4sIII4s", content)
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    binary, name = struct.unpack_from("<I4s", content, 20 + size)
    assert name == b"BIN\0" and 28 + size + binary == len(content)
    return json.loads(content[20 : 20 + size]), content[28 + size :]


def closed(path) -> trimesh.Trimesh:
    read = trimesh.load(path, force="mesh", process=False)
    whole = trimesh.Trimesh(read.vertices, read.faces, process=False)
    whole.merge_vertices(merge_tex=True, merge_norm=True)
    return whole


@pytest.mark.parametrize("kind", ["glb", "ply", "obj"])
def test_others_read_the_same_closed_mesh(mesh, tmp_path, kind):
    path = mesh.save(tmp_path / f"my head.{kind}")
    read = closed(path)
    assert read.is_watertight and read.is_winding_consistent
    assert 0.002 < read.volume < 0.02, "litres of a head in cubic metres, outwards"
    ends = mesh.triangles.vertices.min(0), mesh.triangles.vertices.max(0)
    assert np.abs(read.bounds - ends).max() < 1e-6
    assert len(read.faces) == len(mesh.triangles.faces) <= 1500
    first = {"glb": b"glTF", "ply": b"ply\n", "obj": b"# un"}[kind]
    assert path.read_bytes().startswith(first)


def test_the_face_looks_along_z_and_the_head_is_up(mesh):
    """The demo's portrait has hair above and a shirt below; the nose sticks out in front, between the eyes."""
    vertices = mesh.triangles.vertices
    middle = vertices[np.abs(vertices[:, 0]) < 0.01]
    nose = middle[(middle[:, 1] > -0.03) & (middle[:, 1] < 0.09)]
    assert nose[:, 2].max() > 0.05 and abs(vertices[:, 0].mean()) < 0.02
    widths = [np.ptp(vertices[part, 0]) for part in (vertices[:, 1] < -0.15, vertices[:, 1] > 0)]
    assert widths[0] > 1.3 * widths[1], "shoulders below"


def test_a_glb_tells_where_its_numbers_lie(mesh, tmp_path):
    document, binary = glb_parts(mesh.save(tmp_path / "a.glb").read_bytes())
    assert document["buffers"][0]["byteLength"] <= len(binary) < document["buffers"][0]["byteLength"] + 4
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    widths, read = {"VEC3": 3, "VEC2": 2, "SCALAR": 1}, []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        width, kind = widths[accessor["type"]], {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        assert view["byteLength"] == 4 * width * accessor["count"]
        read.append(np.frombuffer(binary, kind, width * accessor["count"], view["byteOffset"]).reshape(-1, width))
    (primitive,) = document["meshes"][0]["primitives"]
    place = primitive["attributes"]["POSITION"]
    assert document["accessors"][place]["min"] == read[place].min(0).tolist()
    assert document["accessors"][place]["max"] == read[place].max(0).tolist()
    assert np.array_equal(read[place], mesh.triangles.vertices[mesh.texture.places])
    assert np.abs(np.linalg.norm(read[primitive["attributes"]["NORMAL"]], axis=1) - 1).max() < 1e-4
    assert np.array_equal(read[primitive["indices"]].reshape(-1, 3), mesh.texture.faces)


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_corners_of_triangles_find_their_texels_as_others_read_them(mesh, tmp_path, kind):
    read = trimesh.load(mesh.save(tmp_path / f"a.{kind}"), force="mesh", process=False)
    ours, theirs = mesh.texture.uv[mesh.texture.faces], read.visual.uv[read.faces]  # theirs run up
    assert np.abs(theirs - np.stack([ours[..., 0], 1 - ours[..., 1]], -1)).max() < 1e-5


def test_a_glb_is_unlit_and_its_texture_is_srgb(mesh, tmp_path):
    document, binary = glb_parts(mesh.save(tmp_path / "a.glb").read_bytes())
    (material,) = document["materials"]
    assert document["extensionsUsed"] == ["KHR_materials_unlit"] == list(material["extensions"])
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    assert set(attributes) == {"POSITION", "NORMAL", "TEXCOORD_0"}, "colours of vertices would multiply the texture"
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    image = Image.open(io.BytesIO(binary[view["byteOffset"] :][: view["byteLength"]]))
    marked = np.asarray(image).astype(int)
    assert np.abs(marked - mesh.texture.image).mean() < 3
    assert document["asset"]["generator"].startswith("triportrait ")
    assert document["asset"]["extras"]["digitalSourceType"] == "trainedAlgorithmicMedia"
    assert document["asset"]["extras"]["source_sha256"] == mesh.stamp.claim.source_sha256


def test_colours_of_vertices_are_linear_in_a_glb_and_srgb_in_a_ply(pipe, tmp_path):
    options = MeshOptions(resolution=24, triangles=None, colour="vertices")
    bare = pipe.mesh("docs/demo/portrait.jpg", options=options, watermark=False)
    document, binary = glb_parts(bare.save(tmp_path / "a.glb").read_bytes())
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    stored = np.frombuffer(binary, "<f4", 3 * accessor["count"], view["byteOffset"]).reshape(-1, 3)
    assert np.allclose(stored, linear(bare.triangles.colours))
    assert linear(np.array([0, 128, 255], np.uint8)) == pytest.approx([0, 0.2158605, 1])
    read = trimesh.load(bare.save(tmp_path / "a.ply"), process=False)
    assert np.array_equal(read.visual.vertex_colors[:, :3], bare.triangles.colours)
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0].decode()
    assert "property float x\nproperty float y\nproperty float z\nproperty uchar red" in header
    assert "property list uchar int vertex_indices" in header
    with pytest.raises(InputError, match="expected a texture"):
        bare.save(tmp_path / "a.obj")


def test_an_obj_names_its_material_without_blanks(mesh, tmp_path):
    mesh.save(tmp_path / "my head.obj")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my head.obj", "my_head.mtl", "my_head.png"]
    assert "mtllib my_head.mtl\n" in (tmp_path / "my head.obj").read_text()
    assert "map_Kd my_head.png" in (tmp_path / "my_head.mtl").read_text()
    with pytest.raises(InputError, match=r"my head\.obj: it exists already"):
        mesh.save(tmp_path / "my head.obj")
    (tmp_path / "my head.obj").unlink()
    with pytest.raises(InputError, match=r"my_head\.mtl: it exists already"):
        mesh.save(tmp_path / "my head.obj")
    with pytest.raises(InputError, match=r"an ending out of \.glb \.ply \.obj is wanted, '\.stl' came"):
        mesh.save(tmp_path / "a.stl")


def test_the_texture_carries_the_watermark(pipe, tmp_path):
    options = MeshOptions(resolution=40, triangles=1500, texture_size=512)
    marked = pipe.mesh("docs/demo/portrait.jpg", options=options)
    marked.save(tmp_path / "a.obj")
    image = np.asarray(Image.open(tmp_path / "a.png"))
    message = message_of(marked.stamp.claim.source_sha256)
    assert np.array_equal(image, Watermark(message).mark(marked.texture.image))
    assert not np.array_equal(image, marked.texture.image)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--resolution", "4"], "resolution: expected a whole number from 16 to 1,024, got 4"),
        (["--triangles", "5"], "triangles: expected a whole number from 100"),
        (["--smooth", "-1"], "smooth: expected a whole number"),
        (["--level", "high"], "--level: expected auto or a number, got 'high'"),
        (["--level", "nan"], "level: expected auto or a finite number"),
        (["--level", "1e9"], "level: expected a raw density between"),
        (["--sequence"], "--sequence: expected a driving video, got none"),
        (["--sequence", "--driving", "docs/demo/portrait.jpg"], "one picture; name one, or leave --sequence out"),
        (["--sequence", "--driving", "docs/demo/driving.mp4"], "expected a folder, got a name that ends in .glb"),
        (["--driving", "docs/demo/driving.mp4", "--frame", "99"], "--frame: expected one of the frames of"),
        (["--frames", "2"], "--frames: expected --sequence beside it"),
        (["--frame", "0"], "--frame: expected 1 to"),
        (
            ["--sequence", "--driving", "docs/demo/driving.mp4", "--frame", "2"],
            "--frame: expected none beside --sequence",
        ),
        (["--sequence", "--driving", "docs/demo/driving.mp4", "--frames", "0"], "--frames: expected 1 to"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, caplog, options, sentence):
    out = tmp_path / "a.glb"
    chosen = [*FEW, *options]
    assert main(["mesh", "docs/demo/portrait.jpg", str(out), *chosen]) == 2
    assert sentence in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(tmp_path, caplog):
    assert main(["mesh", "docs/demo/portrait.jpg", str(tmp_path / "a.fbx"), *FEW]) == 2
    assert "an ending out of .glb .ply .obj is wanted, '.fbx' came" in caplog.text


def test_too_little_memory_and_missing_packages_are_said_before_any_work(monkeypatch):
    monkeypatch.setattr(head_meshes, "free_memory", lambda: 2 * 10**9)
    with pytest.raises(InputError, match=r"expected at most 471 with 2\.0 GB of memory free, got 1024, which takes 15"):
        MeshOptions(resolution=1024).check()
    with pytest.raises(InputError, match=r"texture_size: expected at most 2775 with 2\.0 GB of memory free, got 8192"):
        MeshOptions(texture_size=8192).check()
    MeshOptions(resolution=256, texture_size=2048).check()
    from triportrait.core.geometry import surface

    monkeypatch.setattr(surface, "fault", lambda name: "is not installed" if name == "xatlas" else None)
    with pytest.raises(InputError, match=r"mesh: expected the package xatlas, it is not installed; `pip install .*"):
        MeshOptions().check()


def test_a_sequence_goes_on_where_it_stopped(tmp_path, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "heads"
    call = ["mesh", "docs/demo/portrait.jpg", str(out), *FEW, "--sequence", "--driving", "docs/demo/driving.mp4"]
    assert main([*call, "--frames", "2"]) == 0
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.glb")}
    assert list(sorted(first)) == ["000000.glb", "000001.glb"]
    assert main([*call, "--frames", "3"]) == 0
    again = {path.name: path.stat().st_mtime_ns for path in out.glob("*.glb")}
    assert len(again) == 3 and all(again[name] == time for name, time in first.items())
    assert "2 meshes are there; it goes on with the next" in caplog.text
    assert main([*call, "--frames", "3", "--smooth", "1"]) == 2
    assert "it holds meshes that were made otherwise; pass --overwrite" in caplog.text
    assert main([*call, "--frames", "1", "--smooth", "1", "--overwrite"]) == 0
    assert [path.name for path in sorted(out.glob("*.glb"))] == ["000000.glb"]


SEQUENCE = ["--sequence", "--driving", "docs/demo/driving.mp4", "--frames", "2"]


def test_a_sequence_that_stopped_within_an_obj_goes_on(tmp_path):
    out = tmp_path / "heads"
    call = ["mesh", "docs/demo/portrait.jpg", str(out), *FEW, *SEQUENCE, "--format", "obj"]
    assert main(call) == 0
    (out / "000001.obj").unlink()
    (out / "000000.obj").unlink()
    assert main(call) == 0, "pictures and materials of the stop are made anew, and what lies behind a gap, too"
    assert len(list(out.glob("0*"))) == 6


@pytest.mark.parametrize("record", [None, "[]", "{", '{"made_by": "x"}'])
def test_a_sequence_takes_nothing_that_is_not_its_own(tmp_path, caplog, record):
    out = tmp_path / "pictures"
    out.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64)).save(out / f"{number:06d}.png")
    if record is not None:
        (out / "sequence.json").write_text(record)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for more in ([], ["--overwrite"]):
        call = ["mesh", "docs/demo/portrait.jpg", str(out), *FEW, "--sequence", "--driving", str(out), *more]
        assert main(call) == 2
        assert "pictures: it holds 000000.png, no mesh of a sequence; choose another folder" in caplog.text
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_refused_sequence_leaves_the_folder_and_its_meshes_alone(tmp_path, caplog):
    out = tmp_path / "heads"
    sequence = MeshSequence(out, "obj", "before")
    assert sequence.begin(False) == 0
    for ending in (".obj", ".mtl", ".png"):
        (out / f"000000{ending}").write_text("an old one")
    (out / "notes.txt").write_text("mine")
    call = ["mesh", "docs/demo/portrait.jpg", str(out), *FEW, *SEQUENCE, "--overwrite"]
    assert main([*call, "--weights", str(tmp_path / "none")]) == 2
    assert len(list(out.iterdir())) == 5, "weights are looked for before meshes go"
    with pytest.raises(InputError, match=r"000000\.png: this is an input; choose another folder"):
        MeshSequence(out, "obj", "after").check(True, [out / "000000.png"])
    assert main(["mesh", "docs/demo/portrait.jpg", str(tmp_path / "new"), *FEW, *SEQUENCE, "--weights", "none"]) == 2
    assert not (tmp_path / "new").exists()
    assert main(call) == 0
    assert sorted(p.name for p in out.iterdir()) == ["000000.glb", "000001.glb", "notes.txt", "sequence.json"]


def test_an_obj_that_cannot_be_finished_leaves_no_picture(mesh, tmp_path, monkeypatch):
    original = mesh_file.replacing

    def failing(path, overwrite):
        if path.suffix == ".obj":
            raise OSError(28, "No space left on device")
        return original(path, overwrite)

    monkeypatch.setattr(mesh_file, "check_mesh_output", lambda *_: None)
    monkeypatch.setattr(mesh_file, "replacing", failing)
    with pytest.raises(InputError, match=r"a\.obj: it could not be written \(no space left on device\)"):
        mesh.save(tmp_path / "a.obj")
    assert list(tmp_path.iterdir()) == []


class Blind:
    """Finds no face."""

    def find(self, image, near=None, quick=False):
        return []

    def close(self):
        pass


def test_a_driving_picture_without_a_face_is_refused(tmp_path, monkeypatch, caplog):
    grey = np.full((128, 128, 3), 128, np.uint8)
    with Pipeline.from_pretrained("demo", device="cpu", faces=Blind()) as seeing:
        source = seeing.prepare("docs/demo/portrait.jpg")
        for make in (seeing.turntable, lambda source, driving: seeing.mesh(source, driving, SMALL)):
            with pytest.raises(InputError, match="driving: expected a picture with a face, none was found"):
                make(source, driving=grey)
    monkeypatch.setattr(mesh_job, "LazyProvider", lambda kind: LazyProvider(Blind()))
    call = ["mesh", "docs/demo/portrait.jpg", str(tmp_path / "a.glb"), *FEW, "--driving", "docs/demo/driving.mp4"]
    monkeypatch.setattr(DrivingFrames, "face", lambda self, frame, tracker: tracker.follow(frame.image, frame.time_s))
    assert main([*call, "--frame", "2"]) == 2
    assert "driving.mp4: expected a face in frame 2, none was found; choose another" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_static_network_and_a_driving_frame_make_meshes(tmp_path):
    for number, more in enumerate((["--static"], ["--driving", "docs/demo/driving.mp4", "--frame", "3", "--no-neck"])):
        out = tmp_path / f"{number}.ply"
        assert main(["mesh", "docs/demo/portrait.jpg", str(out), *FEW, *more]) == 0
        assert closed(out).is_watertight
