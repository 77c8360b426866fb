"""Head models: which is which, that none are mixed, their folders, the one that is shipped."""

from __future__ import annotations

import json

import pytest
import torch

from docs.tracking.open_head import stored
from tests.core.synthetic import flame_tables, mesh_tables
from tests.core.tracking import head_files as files
from tests.core.tracking.head_files import SPLIT
from triportrait.core.checkpoint import load_portrait, read_tensors, save_weights
from triportrait.core.config import tiny
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import rescale_flame
from triportrait.core.published.convert import FlameOptions, convert
from triportrait.core.tracking.head_model import (
    PUBLISHED_MODEL,
    ModelIdentity,
    check_same_model,
    fingerprint,
    load_head_model,
)
from triportrait.core.weights import OPEN_HEAD_FOLDER
from triportrait.train.data.heads.linear_model import linear_head_model


class TestIdentity:
    def test_rounding_and_padding_keep_the_fingerprint(self):
        tables = {name: table.double() for name, table in files.open_tables().items()}
        mine = ModelIdentity("a", fingerprint(tables, 12))
        noisy = {name: table * (1 + 1e-7) + 1e-8 for name, table in tables.items()}
        assert mine.is_same(ModelIdentity("b", fingerprint(noisy, 12)))
        padded = load_head_model().padded_tables()
        assert mine.is_same(ModelIdentity("b", fingerprint(padded, 300)))

    @pytest.mark.parametrize("name", ["template", "shape_directions"])
    def test_another_model_has_another(self, name):
        tables = files.open_tables()
        mine = ModelIdentity("a", fingerprint(tables, 12))
        moved = tables[name].clone()
        moved.flatten()[::7] += 2e-3
        assert not mine.is_same(ModelIdentity("a", fingerprint(tables | {name: moved}, 12)))
        turned = tables[name].flip(-1) if name != "template" else tables[name].flip(0)
        assert not mine.is_same(ModelIdentity("a", fingerprint(tables | {name: turned}, 12)))

    def test_a_sum_between_two_steps_is_no_difference(self):
        assert ModelIdentity("a", "0000ffff00000010").is_same(ModelIdentity("b", "ffff00000001000f"))
        assert not ModelIdentity("a", "0000ffff00000010").is_same(ModelIdentity("a", "0000ffff00000012"))

    def test_models_are_not_mixed(self):
        old, new = ModelIdentity("FLAME 2020", "0" * 16), ModelIdentity("FLAME 2023", "1" * 16)
        check_same_model(old, PUBLISHED_MODEL, "x")
        check_same_model(old, ModelIdentity("another name", "0" * 16), "x")
        with pytest.raises(InputError, match=r"x: expected parameters of FLAME 2020 \(0+\), the head model of the "
                                             r"store, got those of FLAME 2023 \(1+\); fit again"):  # fmt: skip
            check_same_model(old, new, "x", "the store")
        with pytest.raises(InputError, match="got those of FLAME 2020"):
            check_same_model(new, PUBLISHED_MODEL, "x")

    @pytest.mark.parametrize(
        "value", [None, {}, {"name": "a", "fingerprint": "12"}, {"name": 1, "fingerprint": ""}, []]
    )
    def test_a_damaged_entry_is_refused(self, value):
        with pytest.raises(InputError, match=r"head_model.json: expected the head model as a name and a fingerprint"):
            ModelIdentity.from_dict(value, "head_model.json")
        assert ModelIdentity.from_dict(PUBLISHED_MODEL.to_dict(), "x") == PUBLISHED_MODEL


def converted_folder(folder, tables, name):
    """Write the folder of a converted FLAME file, with a card."""
    identity = ModelIdentity(name, fingerprint(rescale_flame(tables), 300))
    marks = {"landmark70_faces": torch.zeros(1, 70).long(), "landmark70_barycentrics": torch.full((1, 70, 3), 1 / 3)}
    tables = tables | marks | {f"mesh.{part}": table for part, table in mesh_tables(tables).items()}
    save_weights(folder, "flame", tables, None, {"head_model": identity.to_dict(), "num_shape": 300})
    return folder


class TestFolders:
    def test_a_checkpoint_is_not_scaled_again(self, tmp_path, tiny_portrait):
        flame = flame_tables()
        tensors = dict(tiny_portrait.state_dict())
        tensors |= {f"neck.flame.{n}": t for n, t in flame.items()} | {
            f"neck.mesh.{n}": t for n, t in mesh_tables(flame).items()
        }
        save_weights(tmp_path, "portrait", tensors, tiny(), {})
        model = load_head_model(tmp_path)
        torch.testing.assert_close(model.flame["template"], flame["template"])
        assert model.identity.name == "FLAME 2020"
        assert (model.num_shape, model.num_expression) == (300, 100)
        field = load_portrait(tmp_path).neck
        torch.testing.assert_close(model.neck_field().flame["shape_directions"], field.flame["shape_directions"])

    def test_a_converted_file_is_scaled_once_and_carries_its_card(self, content, tmp_path, tiny_portrait):
        path = files.as_pickle(tmp_path / "FLAME2023" / "generic_model.pkl", content)
        conversion = convert(path, tmp_path / "w", flame=FlameOptions(directions=SPLIT))
        card = json.loads((tmp_path / "w" / "flame.json").read_text())["provenance"]
        assert card["head_model"]["name"] == "FLAME 2023"
        assert (card["num_shape"], card["num_expression"], card["version"]) == (30, 10, "2023")
        assert set(card["derived"]) == {"landmark70", "coarse mesh"}
        assert "landmark70: derived" in conversion.notes[0]
        stored = read_tensors(tmp_path / "w", "flame")
        torch.testing.assert_close(stored["template"], torch.from_numpy(content["v_template"]).float())
        model = load_head_model(tmp_path / "w")
        own = {name: table for name, table in stored.items() if not name.startswith("mesh.")}
        torch.testing.assert_close(model.flame["template"], rescale_flame(own)["template"])
        save_weights(tmp_path / "w", "portrait", tiny_portrait.state_dict(), tiny(), {})
        assert load_portrait(tmp_path / "w").neck.identity.is_same(model.identity)

    def test_a_card_without_a_version_is_not_guessed(self, tmp_path):
        save_weights(tmp_path, "flame", flame_tables(), None, {})
        with pytest.raises(InputError, match=r"expected FLAME's version on the card, got none; convert .* again"):
            load_head_model(tmp_path)

    def test_a_card_of_other_tables_is_refused(self, tmp_path):
        save_weights(tmp_path, "flame", flame_tables(), None, {"head_model": {"name": "a", "fingerprint": "0" * 16}})
        with pytest.raises(InputError, match="expected the tables that its card tells of"):
            load_head_model(tmp_path)

    def test_options_of_a_flame_file_are_not_ignored_elsewhere(self, tmp_path):
        save_weights(tmp_path, "flame", flame_tables(), None, {})
        for options, words in (
            ({"directions": (1, 1)}, "directions"),
            ({"assets": [tmp_path / "nowhere"]}, "assets"),
            ({"tables_from": "open-head"}, "tables_from"),
            ({"directions": (1, 1), "assets": [tmp_path]}, "directions, assets"),
        ):
            for name in ("open-head", tmp_path):
                with pytest.raises(
                    InputError, match=rf"{name}: expected {words} with a FLAME file alone, got .* leave"
                ):
                    load_head_model(name, **options)
        with pytest.raises(InputError, match="open-head: expected version with a FLAME file alone"):
            load_head_model(version="2023")

    def test_a_version_that_is_not_that_of_the_card_is_refused(self, tmp_path, tiny_portrait):
        tables = flame_tables()
        name = converted_folder(tmp_path / "known", tables, "FLAME 2020")
        assert load_head_model(name, "2020").identity.name == "FLAME 2020"
        with pytest.raises(
            InputError, match=r"known: expected version to be that of FLAME 2020, .* got 2023; leave it"
        ):
            load_head_model(name, "2023")
        tensors = {**tiny_portrait.state_dict(), **{f"neck.flame.{n}": t for n, t in tables.items()}}
        save_weights(tmp_path / "published", "portrait", tensors, tiny(), {})
        with pytest.raises(InputError, match="published: expected version to be that of FLAME 2020"):
            load_head_model(tmp_path / "published", "2017")
        with pytest.raises(InputError, match="flame-version: expected one of"):
            load_head_model(name, "2021")

    @pytest.mark.parametrize("name", ["demo", "nowhere"])
    def test_folders_without_a_model(self, name):
        with pytest.raises(InputError, match=r"expected a weights folder with FLAME's tables|no such head model"):
            load_head_model(name)


class TestTheOpenHead:
    def test_what_is_shipped_is_what_its_maker_makes(self):
        shipped = read_tensors(OPEN_HEAD_FOLDER, "head")
        again = stored(files.open_tables())
        assert shipped.keys() == again.keys()
        assert all(torch.equal(shipped[name], again[name]) for name in again), "half precision once is half for ever"
        assert sum(table.numel() * table.element_size() for table in shipped.values()) < 700_000

    def test_fewer_heads_make_about_the_same_model(self):
        """The whole of 3,000 heads takes a minute; of 400, mean, parts and most of what varies are the same."""
        made, shipped = linear_head_model(400), files.open_tables()
        for name in ("faces", "parents", "landmark70_faces", "landmark70_barycentrics"):
            assert torch.equal(made[name], shipped[name])
        torch.testing.assert_close(made["skinning_weights"], shipped["skinning_weights"], atol=5e-4, rtol=0)
        far_mm = (made["template"] - shipped["template"]).norm(dim=-1) / 3 * 1000
        assert far_mm.mean() < 0.5
        for kind, least in ((slice(0, 12), 0.9), (slice(12, 22), 0.9)):
            bases = [t["shape_directions"][..., kind].flatten(0, 1) for t in (made, shipped)]
            span = torch.linalg.qr(bases[0])[0]
            kept = (span @ (span.T @ bases[1])).square().sum() / bases[1].square().sum()
            assert kept > least
        assert not made["pose_directions"].any()

    def test_records_go_into_its_neck_field(self):
        model = load_head_model()
        field = model.neck_field()
        random = torch.Generator().manual_seed(0)
        shape, expression = torch.zeros(2, 300), torch.zeros(2, 100)
        shape[:, :12], expression[:, :10] = torch.randn(2, 12, generator=random), torch.randn(2, 10, generator=random)
        pose = [0.1 * torch.randn(2, width, generator=random) for width in (3, 3, 6)]
        padded, _ = field.flame(torch.cat([shape, expression], 1), *pose)
        plain, _ = model.flame(torch.cat([shape[:, :12], expression[:, :10]], 1), *pose)
        torch.testing.assert_close(padded, plain)
        assert field.identity == model.identity
        assert field(shape, expression, *pose).fine.shape == (2, 24, 24, 24, 4)

    def test_a_folder_with_its_padded_tables_is_the_same_model(self, tmp_path, tiny_portrait):
        model = load_head_model()
        tables = {f"neck.{name}": table for name, table in model.neck_field().state_dict().items()}
        card = {"head_model": model.identity.to_dict()}
        save_weights(tmp_path, "portrait", {**tiny_portrait.state_dict(), **tables}, tiny(), card)
        again = load_head_model(tmp_path)
        assert (again.num_shape, again.num_expression) == (12, 10)
        assert again.identity == model.identity
        assert again.is_open
