"""Published files become weights folders: every tensor has one place, and the result is the published network."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from tests.core import pickles, published_like
from tests.core.parity import seeded
from tests.core.published_like import as_network, published_tensors
from tests.core.synthetic import flame_tables, sphere
from tests.core.tracking import head_files
from triportrait.core.checkpoint import load_motion_encoder, load_portrait, save_weights
from triportrait.core.config import genhead_ffhq512, portrait4d_v2
from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import load_genhead
from triportrait.core.motion.pdfgc import PDFGC
from triportrait.core.portrait import Portrait4D
from triportrait.core.published import convert as module
from triportrait.core.published import network_contract
from triportrait.core.published.convert import FlameOptions, convert
from triportrait.core.published.names import our_name, rename
from triportrait.core.published.network_contract import check_options, ignored, manifest
from triportrait.core.published.networks import Network
from triportrait.core.tracking.head_model import load_head_model
from triportrait.serve.jobs.convert import Convert


class TestNames:
    @pytest.mark.parametrize("kind, count", [("portrait", 413), ("motion", 325), ("genhead", 281)])
    def test_every_published_tensor_has_one_place_of_its_shape(self, kind, count):
        makers = {
            "portrait": lambda: Portrait4D(portrait4d_v2()),
            "motion": PDFGC,
            "genhead": lambda: GenHead(genhead_ffhq512()),
        }
        with torch.device("meta"):
            module = makers[kind]()
        ours = {n: tuple(t.shape) for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
        if kind == "genhead":
            del ours["superres.style"]  # the published file has none: conversion makes it
        published = manifest(kind)
        assert len(published) == count
        places = rename(published, kind)
        network = {n: o for n, o in places.items() if not o.startswith("neck.")}
        assert {o: published[n] for n, o in network.items()} == ours
        tables = [o for o in places.values() if o.startswith("neck.")]
        assert len(set(tables)) == len(tables) == {"portrait": 41, "motion": 0, "genhead": 41}[kind]

    def test_an_unknown_name_matches_nothing_of_ours(self):
        assert our_name("encoder_canonical.extra.weight", "portrait") == "encoder_canonical.extra.weight"


@pytest.fixture(scope="module")
def flame():
    """Tables of the published shapes: a real mesh of 5023 vertices, its faces repeated up to 9976."""
    small = flame_tables()
    vertices, faces = sphere(60, 85)  # 2 + 59 * 85 = 5017 vertices
    vertices = torch.cat([vertices, vertices[:6]])
    faces = torch.cat([faces, faces])[:9976]
    U = len(vertices)
    generator = torch.Generator().manual_seed(1)
    weights = torch.zeros(U, 5)
    weights[:, 1] = ((vertices[:, 1] + 0.05) / 0.1).clamp(0, 1)
    weights[:, 0] = 1 - weights[:, 1]
    regressor = torch.zeros(5, U)
    regressor[:, :5] = 0.2
    tables = {
        "template": vertices,
        "shape_directions": torch.randn(U, 3, 400, generator=generator) * 0.001,
        "pose_directions": torch.randn(36, 3 * U, generator=generator) * 0.001,
        "joint_regressor": regressor,
        "parents": small["parents"],
        "skinning_weights": weights,
        "faces": faces,
    }
    picked = torch.linspace(0, U - 1, 730).long()
    coarse = {
        "coarse_vertices": picked[:, None].expand(-1, 3).contiguous(),
        "coarse_barycentrics": torch.tensor([1.0, 0, 0]).expand(730, 3).contiguous(),
        "coarse_faces": torch.randint(0, 730, (1394, 3), generator=generator),
    }
    return {f"neck.flame.{n}": t for n, t in tables.items()} | {f"neck.mesh.{n}": t for n, t in coarse.items()}


@pytest.fixture(scope="module")
def motion_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("motion") / "motion_model.pth"
    torch.save(published_tensors("motion"), path)
    return path


@pytest.mark.full
def test_a_whole_published_snapshot(tmp_path, flame, full_portrait, no_grad):
    """The size of the real thing: 224.8 million numbers in a pickle that carries source, G, D and G_ema."""
    tensors = published_tensors("portrait", flame)
    names = {"G_ema": as_network("TriPlaneReconstructorNeutralize", tensors)}
    names["D"] = as_network("DualDiscriminatorDeform", published_tensors("discriminator"))
    file = tmp_path / "portrait4d-v2-vfhq512.pkl"
    file.write_bytes(pickles.dump(pickles.snapshot(**names)))
    assert file.stat().st_size > 900e6
    conversion = convert(file, tmp_path / "weights")
    file.unlink()
    assert [part.kind for part in conversion.parts] == ["portrait", "discriminator"]
    assert not conversion.warnings
    portrait = load_portrait(tmp_path / "weights", "portrait4d_v2")
    for name, tensor in full_portrait.state_dict().items():
        assert torch.equal(portrait.state_dict()[name], tensor), name
    for name, tensor in flame.items():
        assert torch.equal(portrait.get_buffer(name), tensor), name
    image = seeded("img_app", (1, 3, 512, 512), "uniform")
    a, b = (p.reconstructor.detail_encoder(image) for p in (portrait, full_portrait))
    assert torch.equal(a, b)
    card = json.loads((tmp_path / "weights" / "portrait.json").read_text())
    assert card["provenance"]["file"] == file.name
    assert len(card["provenance"]["sha256"]) == 64
    assert card["provenance"]["settings"] == {"img_resolution": 512, "mot_dims": 548}
    assert "licence" in card["provenance"]
    assert card["config"]["preset"] == "portrait4d_v2"
    assert {p.name for p in (tmp_path / "weights").iterdir()} == {
        "portrait.safetensors", "portrait.json", "discriminator.safetensors", "discriminator.json",
    }  # fmt: skip


@pytest.fixture(scope="module")
def genhead_tensors():
    return published_tensors("genhead")


class TestGenHead:
    @pytest.mark.full
    def test_a_snapshot_becomes_a_generator(self, tmp_path, full_genhead, genhead_tensors):
        file = tmp_path / "genhead-ffhq512.pkl"
        options = {"use_ws_ones": True, "z_dim": 512, "c_dim": 325}
        network = as_network("PartTriPlaneGeneratorDeform", genhead_tensors, **options)
        discriminator = as_network("DualDiscriminatorDeform", published_tensors("discriminator"))
        file.write_bytes(pickles.dump(pickles.snapshot(G_ema=network, D=discriminator)))
        (part, other) = convert(file, tmp_path / "w").parts
        assert (part.kind, part.num_tensors) == ("genhead", len(manifest("genhead")) + 1)
        assert other.kind == "genhead_discriminator"  # a portrait's own may lie beside it
        generator = load_genhead(tmp_path / "w")
        assert (generator.superres.style == 1).all(), "as the options of the file say"
        for name, tensor in full_genhead.state_dict().items():
            if name != "superres.style":
                assert torch.equal(generator.state_dict()[name], tensor), name
        assert generator.regions is not None and generator.regions.neighbours.shape == (5023, 10)
        card = json.loads((tmp_path / "w" / "genhead.json").read_text())
        assert card["provenance"]["style"] == "all ones, because the network was made with use_ws_ones"
        assert card["config"]["preset"] == "genhead_ffhq512"

    @pytest.mark.full
    @pytest.mark.parametrize("options", [{"use_ws_ones": False}, {}])
    def test_without_ones_the_style_is_the_mappings_mean(self, genhead_tensors, options):
        network = Network(genhead_tensors, settings=options)
        part = module._part(network, "genhead", "x.pkl", [], genhead_ffhq512())
        assert torch.equal(part.tensors["superres.style"], genhead_tensors["backbone.mapping.w_avg"])
        assert part.details["style"].startswith("the mean style of the mapping")

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"z_dim": 256}, "z_dim: expected a network made with 512, got 256; give a file of the published GenHead"),
            ({"rendering_kwargs": {"box_warp": 1.0}}, "box_warp: expected a network made with 1.3, got 1.0"),
            ({"use_ws_ones": "yes"}, "use_ws_ones: expected a truth value, got another"),
        ],
    )
    def test_other_options_are_refused(self, options, message):
        with pytest.raises(InputError, match=message):
            check_options({"img_resolution": 512} | options, "x.pkl", "genhead")


def test_the_motion_encoder(tmp_path, motion_file, motion_encoder, no_grad):
    convert(motion_file, tmp_path / "w")
    crop = seeded("img_mot", (1, 3, 224, 224), "uniform")
    assert torch.equal(load_motion_encoder(tmp_path / "w")(crop), motion_encoder(crop))


def test_arcface(tmp_path):
    torch.save(published_tensors("arcface"), tmp_path / "backbone.pth")
    (part,) = convert(tmp_path / "backbone.pth", tmp_path / "w").parts
    assert part.kind == "arcface"
    assert set(load_file(part.path)) == set(manifest("arcface"))


def test_a_flame_file(tmp_path, tiny_portrait):
    file = tmp_path / "generic_model.pkl"
    content = head_files.entries()
    head_files.as_pickle(file, content)
    (part,) = convert(file, tmp_path / "w", flame=FlameOptions("2020", head_files.SPLIT)).parts
    tables = load_file(part.path)
    assert part.kind == "flame"
    assert tables["pose_directions"].shape == (36, 3 * 5023)
    source = torch.as_tensor(content["posedirs"])  # [U, 3, 36]
    torch.testing.assert_close(tables["pose_directions"][7].view(-1, 3), source[..., 7].float())
    save_weights(tmp_path / "w", "portrait", tiny_portrait.state_dict(), tiny_portrait.config, {})
    neck = load_portrait(tmp_path / "w").neck
    assert neck.identity.name == "FLAME 2020"
    assert load_head_model(tmp_path / "w").identity.is_same(neck.identity)


def test_weights_that_are_there_are_kept_unless_asked(tmp_path, motion_file):
    convert(motion_file, tmp_path / "w")
    before = (tmp_path / "w" / "motion.json").read_bytes()
    with pytest.raises(InputError, match=r"motion.safetensors: exists already; pass --overwrite"):
        convert(motion_file, tmp_path / "w")
    assert (tmp_path / "w" / "motion.json").read_bytes() == before
    convert(motion_file, tmp_path / "w", overwrite=True)


WRONG = {
    "missing": (lambda t: t.pop("model.fc.weight"), r"1 missing \(model.fc.weight\)"),
    "unknown": (
        lambda t: t.update(extra=torch.zeros(2)),
        r"1 unknown \(extra\); .* with --ignore NAME",
    ),
    "misshapen": (lambda t: t.update({"model.fc.bias": torch.zeros(9)}), r"1 misshapen \(model.fc.bias \[9\]"),
    "not finite": (lambda t: t["model.fc.bias"].fill_(torch.inf), r"face.fc.bias holds numbers that are not finite"),
    "out of float32": (
        lambda t: t.update({"model.fc.bias": torch.full((512,), 1e300, dtype=torch.float64)}),
        r"face.fc.bias holds numbers that are not finite in float32",
    ),
    "whole numbers": (
        lambda t: t.update({"model.fc.bias": torch.ones(512).int()}),
        r"1 mistyped \(model.fc.bias int32",
    ),
    "something else": (lambda t: t.pop("to_mouth.0.weight"), r"expected PD-FGC's, ArcFace's, .* tensors, got others"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_writes_nothing(tmp_path, case):
    damage, message = WRONG[case]
    tensors = published_tensors("motion")
    damage(tensors)
    torch.save(tensors, tmp_path / "motion_model.pth")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "motion_model.pth", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_genhead_must_be_whole(tmp_path):
    marked = as_network("G", {"backbone.mapping.embed.weight": torch.zeros(1)})
    (tmp_path / "x.pkl").write_bytes(pickles.dump(pickles.snapshot(G_ema=marked)))
    with pytest.raises(InputError, match=r"expected the \d+ tensors of a published genhead"):
        convert(tmp_path / "x.pkl", tmp_path / "w")


def test_the_folder_may_not_be_a_file(tmp_path, motion_file):
    (tmp_path / "w").write_text("mine")
    with pytest.raises(InputError, match="expected a folder for the weights, this is a file"):
        convert(motion_file, tmp_path / "w")
    assert (tmp_path / "w").read_text() == "mine"


@pytest.fixture
def small(monkeypatch):
    """Manifests with the published names and sizes of at most 3, so that a snapshot is small."""

    def shrunk(kind):
        unshrunk = ("w_avg", f"{published_like.FLAME}parents")
        return {
            name: shape if name in unshrunk else tuple(size and min(size, 3) for size in shape)
            for name, shape in manifest(kind).items()
        }

    monkeypatch.setattr(network_contract, "manifest", shrunk)
    monkeypatch.setattr(published_like, "manifest", shrunk)


class Snapshot:
    """A small published snapshot of a portrait, to be damaged and converted."""

    def __init__(self, folder):
        self.file, self.folder = folder / "x.pkl", folder / "w"
        self.portrait, self.judge = published_tensors("portrait"), published_tensors("discriminator")
        self.options, self.kind = {}, "TriPlaneReconstructor"

    def convert(self, **options):
        networks = {"G_ema": as_network(self.kind, self.portrait, **self.options)}
        if self.judge:
            networks["D"] = as_network("D", self.judge)
        self.file.write_bytes(pickles.dump(pickles.snapshot(**networks)))
        return convert(self.file, self.folder, **options)

    def written(self):
        return load_file(self.folder / "portrait.safetensors")

    def provenance(self):
        return json.loads((self.folder / "portrait.json").read_text())["provenance"]


@pytest.fixture
def snapshot(tmp_path, small):
    return Snapshot(tmp_path)


class TestSnapshot:
    def test_as_it_is(self, snapshot):
        conversion = snapshot.convert()
        assert [part.kind for part in conversion.parts] == ["portrait", "discriminator"]
        assert not conversion.warnings
        assert torch.equal(snapshot.written()["superres.style"], snapshot.portrait["w_avg"])
        assert not {"style", "ignored"} & set(snapshot.provenance())

    @pytest.mark.parametrize("stored", [True, False])
    def test_a_style_of_ones(self, snapshot, stored):
        snapshot.options["use_ws_ones"] = True
        if not stored:
            del snapshot.portrait["w_avg"]
        snapshot.convert()
        assert torch.equal(snapshot.written()["superres.style"], torch.ones(512))
        assert snapshot.provenance()["style"] == "all ones, because the network was made with use_ws_ones"

    @pytest.mark.parametrize("options", [{}, {"use_ws_ones": False}])
    def test_a_style_that_is_missing(self, snapshot, options):
        snapshot.options |= options
        del snapshot.portrait["w_avg"]
        with pytest.raises(InputError, match=r"1 missing \(w_avg\); give the file that was published for it$"):
            snapshot.convert()

    def test_other_options_write_nothing(self, snapshot):
        snapshot.options["rendering_kwargs"] = pickles.EasyDict(box_warp=1.3, depth_resolution=96)
        with pytest.raises(InputError, match=r"x.pkl: G_ema: rendering_kwargs.depth_resolution: .* 48, got 96"):
            snapshot.convert()
        assert not snapshot.folder.exists()

    @pytest.mark.parametrize(
        "damage, words",
        [
            (lambda t: t.pop("b4.out.bias"), r"x.pkl: D: expected the 61 tensors .* 1 missing \(b4.out.bias\)"),
            (lambda t: t.update({"b4.out.bias": torch.full((3,), torch.nan)}), "D: b4.out.bias holds numbers that are"),
            (lambda t: t.update(resample_filter=torch.ones(4, 4)), "D: resample_filter: expected the filter"),
        ],
    )
    def test_a_discriminator_that_does_not_fit_is_left_out(self, snapshot, caplog, damage, words):
        damage(snapshot.judge)
        conversion = snapshot.convert()
        assert [part.kind for part in conversion.parts] == ["portrait"]
        (warning,) = conversion.warnings
        assert re.search("^the discriminator is left out: .*" + words, warning)
        assert not (snapshot.folder / "discriminator.safetensors").exists()
        Convert(snapshot.file, snapshot.folder, overwrite=True).run()
        assert (caplog.records[-1].levelname, caplog.messages[-1]) == ("WARNING", warning)

    def test_unknown_tensors_are_left_out_on_request(self, snapshot):
        snapshot.portrait |= {"deformer.renderer.uv": torch.zeros(2), "deformer.renderer.faces": torch.zeros(2)}
        with pytest.raises(InputError, match=r"2 unknown \(deformer.renderer.uv, deformer.* with --ignore NAME"):
            snapshot.convert()
        with pytest.raises(InputError, match=r"1 unknown \(deformer.renderer.uv\)"):
            snapshot.convert(ignore=["*.renderer.faces"])
        conversion = snapshot.convert(ignore=["deformer.renderer.*", "nothing"])
        assert conversion.warnings == [f"--ignore nothing: fits no unknown tensor of {snapshot.file}"]
        assert snapshot.provenance()["ignored"] == ["deformer.renderer.uv", "deformer.renderer.faces"]
        assert conversion.parts[0].num_tensors == len(manifest("portrait"))

    @pytest.mark.parametrize("damage", [lambda t: t.pop("w_avg"), lambda t: t.update(w_avg=torch.zeros(3))])
    def test_nothing_else_is_excused(self, snapshot, damage):
        damage(snapshot.portrait)
        with pytest.raises(InputError, match=r"1 (missing|misshapen) \(w_avg"):
            snapshot.convert(ignore=["*"])

    def test_numbers_are_stored_in_one_width(self, snapshot):
        originals = dict(snapshot.portrait)
        for name, tensor in originals.items():
            other = torch.float64 if tensor.is_floating_point() else torch.int32
            snapshot.portrait[name] = tensor if tensor.dtype == torch.bool else tensor.to(other)
        snapshot.convert()
        written = snapshot.written()
        assert {t.dtype for t in written.values()} == {torch.float32, torch.int64, torch.bool}
        for name, tensor in originals.items():
            if not ignored(name):
                stored = written[our_name(name, "portrait")]
                assert stored.dtype == tensor.dtype, name
                assert torch.equal(stored, tensor), name

    def test_faces_point_to_vertices(self, snapshot):
        snapshot.portrait["deformer.flame_deform.simplify_faces"] = torch.full((3, 3), 3)
        with pytest.raises(InputError, match=r"G_ema: .*simplify_faces: expected numbers from 0 to 2, got 3 to 3"):
            snapshot.convert()

    def test_text_of_the_file_stays_on_one_short_line(self, snapshot):
        snapshot.kind, snapshot.portrait = "\x1b]0;x\x07\n" + "A" * 100_000, {"a": torch.ones(1)}
        with pytest.raises(InputError, match=r"got a \\x1b\]0;x\\x07\\nAAA") as caught:
            snapshot.convert()
        assert len(str(caught.value)) < 300 + len(str(snapshot.file))


def test_an_unknown_tensor_of_the_motion_encoder(tmp_path, motion_file):
    torch.save(torch.load(motion_file) | {"to_extra.weight": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"1 unknown \(to_extra.weight\)"):
        convert(tmp_path / "m.pth", tmp_path / "w")
    Convert(tmp_path / "m.pth", tmp_path / "w", ignore=("to_extra.*",)).run()
    assert json.loads((tmp_path / "w" / "motion.json").read_text())["provenance"]["ignored"] == ["to_extra.weight"]
