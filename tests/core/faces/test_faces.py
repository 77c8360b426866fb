"""Faces are found, fitted and segmented as mediapipe does it, alone and in batches, in float32 and half.

What needs the real networks is skipped where neither the cache nor an installed mediapipe has them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.core.faces.compared import as_batch, compared
from tests.core.faces.networks import face_graph
from tests.core.faces.pictures import HEADS, MASKED, numbers, photographs, pictures
from triportrait.core.faces.detector import FaceDetector, decoded, ssd_anchors, suppressed
from triportrait.core.faces.mesh import LEAST_PRESENCE, FaceMesh
from triportrait.core.faces.network import GraphNetwork
from triportrait.core.faces.regions import Regions, crop, regions_of_boxes, regions_of_points
from triportrait.core.faces.segmentation import PersonSegmentation

NAMES = [*photographs(), *HEADS]
NETWORKS = ("short", "full", "mesh", "mask")


@pytest.fixture(scope="module")
def graphs():
    return {name: face_graph(name) for name in NETWORKS}


@pytest.mark.parametrize("name", NAMES)
def test_agreement_with_mediapipe(name, graphs):
    """Boxes within a pixel, points within 0.1 % of the distance between the eyes, masks within 1/255 on 99 %."""
    row = compared(name, graphs)
    assert row.short_faces[0] == row.short_faces[1]
    assert row.full_faces[0] == row.full_faces[1]
    assert sum(row.short_faces) + sum(row.full_faces) > 0, "nothing is compared"
    for off in (row.short_px, row.full_px):
        assert math.isnan(off) or off < 1
    if f"{name}/mesh" in numbers():
        assert row.points_largest < 0.1
        assert row.depths < 0.1
        assert row.presence > LEAST_PRESENCE
    if name in MASKED:
        assert row.mask_within > 0.99


def test_most_pictures_have_a_mesh():
    assert sum(f"{name}/mesh" in numbers() for name in NAMES) >= len(NAMES) - 1


def test_pictures_in_float_are_those_in_levels(graphs):
    image = as_batch(pictures()["face at the edge"]).float() / 127.5 - 1
    row = compared("face at the edge", graphs, images=image)
    assert row.short_px < 0.1
    assert row.points_largest < 0.1


def test_half_precision(graphs):
    """In half points move by less than 0.3 % of the distance between the eyes."""
    row = compared("turned by 15 degrees", graphs, torch.float16)
    assert row.short_px < 1.5
    assert row.points_largest < 0.3
    assert row.points_mean < 0.1


def test_batches_are_their_pictures(graphs):
    chosen = [pictures()[name] for name in ("photograph", "grey", "dark", "turned by 15 degrees", "photograph")]
    batch = torch.cat([as_batch(picture) for picture in chosen])
    detector, mesh = FaceDetector(graphs["short"]), FaceMesh(graphs["mesh"])
    segmentation = PersonSegmentation(graphs["mask"])
    found = detector(batch, 3)
    assert found.scores.shape == (5, 3)
    together = mesh(batch, regions_of_boxes(found.boxes[:, 0], found.keypoints[:, 0]))
    masks = segmentation(batch[:2])
    for k in range(len(batch)):
        one = batch[k : k + 1]
        alone = detector(one, 3)
        torch.testing.assert_close(alone.boxes[0], found.boxes[k], atol=1e-2, rtol=0)
        region = regions_of_boxes(found.boxes[k : k + 1, 0], found.keypoints[k : k + 1, 0])
        torch.testing.assert_close(mesh(one, region).points[0], together.points[k], atol=1e-2, rtol=0)
        if k < len(masks):
            torch.testing.assert_close(segmentation(one)[0], masks[k], atol=1e-4, rtol=0)


def test_faces_of_one_picture(graphs):
    """Two squares of a picture at a time; one beside the picture has no face."""
    image = as_batch(pictures()["photograph"])
    detector, mesh = FaceDetector(graphs["short"]), FaceMesh(graphs["mesh"])
    found = detector(image, 1)
    face = regions_of_boxes(found.boxes[:, 0], found.keypoints[:, 0])
    wall = Regions(torch.tensor([[-300.0, -300.0]]), torch.tensor([60.0]), torch.zeros(1))
    both = Regions(*(torch.cat(pair) for pair in zip(
        (face.centre, face.side, face.roll), (wall.centre, wall.side, wall.roll), strict=True
    )))  # fmt: skip
    fitted = mesh(image, both, torch.tensor([0, 0]))
    torch.testing.assert_close(fitted.points[:1], mesh(image, face).points, atol=1e-2, rtol=0)
    assert fitted.presence[0] > 0.9
    assert fitted.presence[1] < LEAST_PRESENCE


def test_a_face_is_followed_by_its_points(graphs):
    """The square made of the last points shows the face again; fitted there, the points stay where they are."""
    image = as_batch(pictures()["turned by 30 degrees"])
    detector, mesh = FaceDetector(graphs["short"]), FaceMesh(graphs["mesh"])
    found = detector(image, 1)
    first = mesh(image, regions_of_boxes(found.boxes[:, 0], found.keypoints[:, 0])).points
    second = mesh(image, regions_of_points(first)).points
    third = mesh(image, regions_of_points(second)).points
    eyes = (third[0, 468, :2] - third[0, 473, :2]).norm()
    assert (second - third)[0, :, :2].norm(dim=1).mean() < 0.01 * eyes
    assert mesh(image, regions_of_points(third), oversampling=2).presence[0] > 0.9


def test_the_iris_network(graphs):
    """The separate network of an eye is read and run; its iris lies in the eye."""
    network = GraphNetwork(face_graph("iris"))
    image = as_batch(pictures()["photograph"])
    region = Regions(torch.tensor([[246.0, 103.0]]), torch.tensor([48.0]), torch.zeros(1))
    contours, iris = network(crop(image, region, network.input_size) / 255).values()
    assert contours.shape == (1, 213)
    middle = region.to_picture(iris.reshape(1, 5, 3)[..., :2] / 64)[0, 0]
    assert (middle - torch.tensor([247.0, 103.0])).norm() < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_waits_for_the_device(graphs, dtype):
    """All of it runs on tensors without numbers: shapes never depend on them, and nothing is read back."""
    images = torch.zeros(2, 3, 480, 640, dtype=torch.uint8, device="meta")
    detector = FaceDetector(graphs["full"], dtype).to("meta")
    mesh = FaceMesh(graphs["mesh"], dtype).to("meta")
    found = detector(images, 4)
    assert found.boxes.shape == (2, 4, 4)
    fitted = mesh(images, regions_of_boxes(found.boxes[:, 0], found.keypoints[:, 0]))
    fitted = mesh(images, regions_of_points(fitted.points))
    assert fitted.points.shape == (2, 478, 3)
    assert fitted.points.dtype == torch.float32
    assert PersonSegmentation(graphs["mask"], dtype).to("meta")(images).shape == (2, 1, 480, 640)


def test_networks_of_another_kind_are_refused(graphs):
    for kind, others in (
        (FaceDetector, ("mesh", "mask")),
        (FaceMesh, ("short", "mask")),
        (PersonSegmentation, ("mesh",)),
    ):
        for name in others:
            with pytest.raises(ValueError, match="expected"):
                kind(graphs[name])


def test_crops_are_opencv_s():
    """Pixel k of n is from k / n of the square; places are rounded to 1/32 pixel, colours to levels, halves up."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 50, 3), np.uint8)
    centre, side, roll, size = (20.3, 18.7), 29.0, 0.4, 16
    region = Regions(torch.tensor([centre]), torch.tensor([side]), torch.tensor([roll]))
    for border in ("border", "zeros"):
        wanted = np.zeros((size, size, 3))
        for i in range(size):
            for j in range(size):
                u, v = (j / size - 0.5) * side, (i / size - 0.5) * side
                x = centre[0] + u * math.cos(roll) - v * math.sin(roll)
                y = centre[1] + u * math.sin(roll) + v * math.cos(roll)
                wanted[i, j] = level(picture, round(x * 32), round(y * 32), border)
        for image in (as_batch(picture), as_batch(picture).float() / 127.5 - 1):
            found = crop(image, region, (size, size), border)[0].permute(1, 2, 0).numpy()
            assert np.abs(found - wanted).max() <= 1
            assert (found != wanted).mean() < 0.01  # places that lie in the middle between two 32nds


def level(picture: np.ndarray, x: int, y: int, border: str) -> np.ndarray:
    """A picture's colour between pixels, at 32nds of a pixel, in whole numbers."""
    total = np.full(3, 512)
    for a, v in ((y >> 5, 32 - (y & 31)), ((y >> 5) + 1, y & 31)):
        for b, u in ((x >> 5, 32 - (x & 31)), ((x >> 5) + 1, x & 31)):
            inside = 0 <= a < picture.shape[0] and 0 <= b < picture.shape[1]
            if inside or border == "border":
                total += (
                    picture[min(max(a, 0), len(picture) - 1), min(max(b, 0), picture.shape[1] - 1)].astype(int) * u * v
                )
    return total >> 10


def test_oversampling_is_a_mean():
    picture = torch.arange(64.0).repeat(64, 1)[None, None].repeat(1, 3, 1, 1).to(torch.uint8)
    region = Regions(torch.tensor([[32.0, 32.0]]), torch.tensor([32.0]), torch.zeros(1))
    plain, mean = (crop(picture, region, (8, 8), oversampling=n)[0, 0] for n in (1, 4))
    torch.testing.assert_close(plain, mean, atol=0.6, rtol=0)
    noise = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert crop(noise, region, (8, 8), oversampling=4).std() < crop(noise, region, (8, 8)).std() / 2


def test_points_go_to_the_picture():
    region = Regions(torch.tensor([[100.0, 50.0]]), torch.tensor([40.0]), torch.tensor([math.pi / 2]))
    points = torch.tensor([[[0.5, 0.5, 0.25], [1.0, 0.5, 0.0], [0.5, 1.0, 0.0]]])
    wanted = torch.tensor([[[100.0, 50.0, 10.0], [100.0, 70.0, 0.0], [80.0, 50.0, 0.0]]])
    torch.testing.assert_close(region.to_picture(points), wanted, atol=1e-4, rtol=0)


def test_regions_hold_the_face():
    boxes, keypoints = torch.tensor([[10.0, 20.0, 50.0, 40.0]]), torch.zeros(1, 6, 2)
    keypoints[0, 1] = torch.tensor([3.0, 3.0])
    region = regions_of_boxes(boxes, keypoints)
    assert region.centre.tolist() == [[30.0, 30.0]]
    assert region.side.tolist() == [60.0]
    assert region.roll.item() == pytest.approx(math.pi / 4)
    points = torch.zeros(1, 478, 3)
    points[0, 263], points[0, 10] = torch.tensor([20.0, 0, 5]), torch.tensor([0.0, 40, 0])
    region = regions_of_points(points)
    assert (region.centre.tolist(), region.side.tolist(), region.roll.tolist()) == ([[10.0, 20.0]], [60.0], [0.0])


def test_anchors_are_an_ssd_s():
    anchors = ssd_anchors(128, (8, 16, 16, 16), 2)
    assert anchors.shape == (896, 2)
    assert anchors[:3].tolist() == [[1 / 32, 1 / 32], [1 / 32, 1 / 32], [3 / 32, 1 / 32]]
    assert anchors[512:519, 0].tolist() == [1 / 16] * 6 + [3 / 16]
    boxes, points = decoded(torch.tensor([[[12.8, 0, 25.6, 12.8] + [0.0, 6.4] * 6]]), torch.tensor([[0.5, 0.5]]), 128)
    torch.testing.assert_close(boxes, torch.tensor([[[0.5, 0.45, 0.7, 0.55]]]))
    torch.testing.assert_close(points, torch.tensor([0.5, 0.55]).expand(1, 1, 6, 2))


def suppressed_by_hand(boxes, scores, most):
    """Weighted suppression, one detection at a time."""
    left = [k for k in np.argsort(-scores, kind="stable") if scores[k] > 0]
    found = []
    while left and len(found) < most:
        best = left[0]
        low = np.maximum(boxes[left, :2], boxes[best, :2])
        high = np.minimum(boxes[left, 2:], boxes[best, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        members = [
            k
            for k, part in zip(left, shared / (area[left] + area[best] - shared), strict=True)
            if part > 0.3 or k == best
        ]
        found.append((np.average(boxes[members], axis=0, weights=scores[members]), scores[best]))
        left = [k for k in left if k not in members]
    return found


@pytest.mark.parametrize("most", [1, 4, 40])
def test_suppression_is_weighted(most):
    rng = np.random.default_rng(most)
    middles, sizes = rng.random((2, 60, 2)), rng.random((2, 60, 2)) * 0.3 + 0.05
    boxes = np.concatenate([middles - sizes / 2, middles + sizes / 2], 2)
    scores = np.where(rng.random((2, 60)) < 0.5, rng.random((2, 60)), 0)
    points = np.repeat(middles[:, :, None], 6, 2)
    given = [torch.from_numpy(array).float() for array in (boxes, points, scores)]
    found = suppressed(given[0], given[1], given[2], most)
    assert found.boxes.shape == (2, most, 4)
    for b in range(2):
        wanted = suppressed_by_hand(boxes[b], scores[b], most)
        assert int((found.scores[b] > 0).sum()) == len(wanted)
        for k, (box, score) in enumerate(wanted):
            np.testing.assert_allclose(found.boxes[b, k].numpy(), box, atol=1e-5)
            assert float(found.scores[b, k]) == pytest.approx(score)
            np.testing.assert_allclose(found.keypoints[b, k, 3].numpy(), (box[:2] + box[2:]) / 2, atol=1e-5)


@pytest.mark.parametrize("place", [float("nan"), float("inf"), -1e30, 1e30])
def test_squares_that_are_nowhere(place):
    """A face that was lost may leave any numbers; a crop there has its size, and nothing is raised."""
    region = Regions(torch.tensor([[place, place]]), torch.tensor([32.0]), torch.zeros(1))
    picture = torch.zeros(1, 3, 40, 50, dtype=torch.uint8)
    for border in ("border", "zeros"):
        assert crop(picture, region, (8, 8), border).shape == (1, 3, 8, 8)
