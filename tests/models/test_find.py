"""Words find a subject: SAM's proposals are those of Meta's predictor, and CLIP's choice comes first."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sams import picture, random_sam

from layerdiffusion.errors import SegmentError
from layerdiffusion.models.find import agreeing, distinct, find, find_again
from layerdiffusion.models.segmenter import Candidate, Proposal, Segmenter

from segment_anything import SamPredictor  # isort: skip

SQUARES = {"red": (4, 4), "blue": (40, 30)}  # their left tops


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(random_sam())


def square(left: int, top: int, side: int = 16) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top : top + side, left : left + side] = True
    return mask


class Squares:
    """A segmenter that takes for subjects a red and a blue square, both together, and each with some green about it."""

    def __init__(self) -> None:
        red, blue = (square(*SQUARES[name]) for name in ("red", "blue"))
        self.masks = [red, blue, red | blue, square(4, 4, 24), square(40, 30, 22)]

    def proposals(self, image):
        return [Proposal((index, 0), 0, mask, 0.9) for index, mask in enumerate(self.masks)]

    def candidates(self, points=(), labels=None, box=None, *, image=None):
        return [Candidate(self.masks[points[0][0]], 0.9)] * 3


class Colours:
    """A CLIP that sees how much of a picture is of the colour named."""

    def embed(self, images, texts):
        colours = [np.asarray(image.resize((32, 32))).reshape(-1, 3) for image in images]
        shares = [[(colour.argmax(1) == channel).mean() for channel in (0, 2)] for colour in colours]
        wanted = [[float(" red " in text), float(" blue " in text)] for text in texts]
        return torch.tensor(shares, dtype=torch.float32), torch.tensor(wanted)


MODELS = SimpleNamespace(clip=Colours)


@pytest.fixture
def two_squares() -> Image.Image:
    """Both squares on green."""
    pixels = np.full((64, 64, 3), (20, 160, 20), np.uint8)
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        pixels[square(*SQUARES[name])] = colour
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", SQUARES)
def test_what_the_words_name_comes_first_and_three_are_offered(two_squares, name):
    found = find(MODELS, two_squares, f"the {name} square", segmenter=Squares())
    assert len(found) == 3 and np.array_equal(found[0].mask, square(*SQUARES[name]))
    assert sorted((one.score for one in found), reverse=True) == [one.score for one in found]


def test_what_many_clicks_agree_on_comes_before_a_part_that_fits_the_words_as_well(two_squares):
    whole, part = square(4, 4), square(4, 4, 12)

    class Parts(Squares):
        def __init__(self, wholes: int) -> None:
            self.masks = [part, *[whole] * wholes]

    for wholes, wanted in ((1, part), (30, whole)):  # SAM's surest first, and each as red as the other
        assert np.array_equal(find(MODELS, two_squares, "the red square", segmenter=Parts(wholes))[0].mask, wanted)
    every = Parts(30).proposals(None)
    assert agreeing([every[0], every[1]], every).tolist() == [1, 30]


def test_sam_is_asked_again_with_the_proposals_box_in_the_pictures_own_pixels(two_squares):
    asked = []

    class Asked(Squares):
        def candidates(self, points=(), labels=None, box=None, *, image=None):
            asked.append(box)
            small = super().candidates(points)
            return [Candidate(np.kron(one.mask, np.ones((2, 2), bool)), one.iou) for one in small]

    best = find(MODELS, two_squares.resize((128, 128)), "the blue square", segmenter=Asked())[0]
    assert best.box == asked[0] == (80, 60, 112, 92)


def test_of_two_alike_a_results_subject_is_the_one_where_it_was_laid_down(two_squares):
    pixels = np.asarray(two_squares).copy()
    pixels[square(*SQUARES["blue"])] = (250, 0, 0)
    for name in SQUARES:
        near = square(*(place + 2 for place in SQUARES[name]))
        found = find_again(MODELS, Image.fromarray(pixels), "the red square", near, Squares())
        assert np.array_equal(found, square(*SQUARES[name]))


def test_words_that_are_none_and_pictures_of_nothing_are_refused(two_squares):
    with pytest.raises(SegmentError, match="no words"):
        find(MODELS, two_squares, "  ", segmenter=Squares())
    empty = SimpleNamespace(proposals=lambda image: [])
    with pytest.raises(SegmentError, match="Nothing on the picture was found by “a dog”"):
        find(MODELS, two_squares, "a dog", segmenter=empty)


def test_of_nearly_equal_proposals_the_surest_stays_and_specks_and_pieces_go():
    def proposal(mask, iou):
        return Proposal((0, 0), 0, mask, iou)

    wanted = proposal(square(10, 10, 20), 0.95)
    near, speck, all_of_it = square(10, 10, 19), square(0, 0, 2), np.ones((64, 64), bool)
    pieces = square(0, 0, 12) | square(40, 40, 12)
    others = [proposal(near, 0.9), *(proposal(mask, 0.99) for mask in (speck, all_of_it, pieces))]
    assert distinct([*others, wanted]) == [wanted]


@pytest.mark.parametrize("size", [(80, 56), (40, 100), (640, 320)])
def test_proposals_are_what_metas_predictor_answers_to_each_click(segmenter, size):
    image = np.asarray(Image.fromarray(picture()).resize(size))
    proposals = segmenter.proposals(image, per_side=3, batch=4)
    assert {proposal.point for proposal in proposals} <= {
        (int(x), int(y)) for x in size[0] * np.array([1, 3, 5]) / 6 for y in size[1] * np.array([1, 3, 5]) / 6
    }
    predictor = SamPredictor(segmenter._sam)
    predictor.set_image(image)
    for proposal in proposals[::4]:
        masks, ious, _ = predictor.predict(np.array([proposal.point], float), np.array([1]))
        assert proposal.iou == pytest.approx(float(ious[proposal.pick]), abs=1e-4)
        smaller = np.asarray(Image.fromarray(masks[proposal.pick]).resize(proposal.mask.shape[::-1]))
        assert max(proposal.mask.shape) == min(256, max(size))
        assert (smaller == proposal.mask).mean() > 0.98
