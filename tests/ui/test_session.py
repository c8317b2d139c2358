"""One tab's marks: what the boards show is what the edit gets."""

import copy
import json

import numpy as np
import pytest
from PIL import Image
from serving import photo

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError, MaskError, SegmentError
from layerdiffusion.images.io import png_bytes
from layerdiffusion.models.find import Found
from layerdiffusion.models.segmenter import Candidate
from layerdiffusion.ui.marks import MAX_POINTS, MarkedPicture
from layerdiffusion.ui.session import Session

WORDS = ("a dog jumping on ice", "a dog jumping", "on ice")


def candidates(points, labels, pixels, box):
    """Three nested squares about the first point, or the box's middle, the middle one the likeliest."""
    points = points or [((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)]
    found = []
    for reach, iou in ((12, 0.5), (4, 0.4), (8, 0.9)):
        mask = np.zeros(pixels.shape[:2], bool)
        x, y = points[0]
        mask[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = True
        found.append(Candidate(mask, iou))
    return found


@pytest.fixture
def marked() -> MarkedPicture:
    picture = MarkedPicture()
    picture.show(photo(80, 60))
    return picture


def test_a_click_takes_the_likeliest_candidate_and_orders_them_by_size(marked):
    marked.point(40, 30, 1, candidates)
    assert marked.marks.pick == 1
    assert marked.mask.sum() == 16 * 16
    marked.choose(2)
    assert marked.mask.sum() == 24 * 24
    assert json.loads(marked.board("The photo."))["candidates"] == 3


def test_the_brush_has_the_last_word_and_survives_the_next_click(marked):
    marked.point(40, 30, 1, candidates)
    marked.stroke([[5, 5]], 2, False)
    marked.stroke([[40, 30]], 2, True)
    assert marked.mask[5, 5] and not marked.mask[30, 40]
    marked.point(42, 30, 1, candidates)
    assert marked.mask[5, 5] and not marked.mask[30, 40]


def test_a_box_goes_to_sam_whichever_way_it_was_dragged_and_clicks_go_on_from_it(marked):
    asked = []

    def look(points, labels, pixels, box):
        asked.append((points, labels, box))
        return candidates(points, labels, pixels, box)

    marked.frame([[70.2, 50.4], [10.4, 5.6]], look)
    assert asked == [([], [], (10, 6, 70, 50))] and marked.mask.sum() == 16 * 16
    marked.point(3, 3, 0, look)
    assert asked[1] == ([(3, 3)], [0], (10, 6, 70, 50))
    assert json.loads(marked.board("The photo."))["box"] == [10, 6, 70, 50]
    for corners in ([[1, 1], [2, 1]], [[1, 1]], "all", [[1, 1], [1000, 2]]):
        with pytest.raises(SegmentError, match="box|place on the picture"):
            marked.frame(corners, look)


def test_a_lasso_adds_and_takes_away_what_it_goes_around(marked):
    marked.lasso([[10, 10], [30, 10], [30, 30], [10, 30]], False)
    assert 380 <= marked.mask.sum() <= 441 and marked.mask[20, 20] and not marked.mask[20, 32]
    marked.lasso([[-20, 20], [60, 20], [60, 70], [-20, 70]], True)
    assert marked.mask[15, 20] and not marked.mask[22, 20]
    with pytest.raises(MaskError, match="3 to"):
        marked.lasso([[1, 1], [2, 2]], False)


def test_words_find_three_and_clicks_go_on_from_the_one_chosen(marked):
    def look(words, pixels):
        assert words == "a dog"
        masks = [one.mask for one in candidates([(20, 20)], [1], pixels, None)]
        return [Found(mask, 0.9, 0.3, ((20 + n, 20),), None) for n, mask in enumerate(masks)]

    marked.find("a dog", look)
    board = json.loads(marked.board("The photo."))
    assert (board["candidates"], board["pick"], board["found"], board["points"]) == (3, 0, "a dog", [[20, 20, 1]])
    marked.choose(1)
    assert marked.marks.points == ((21, 20, 1),) and marked.mask.sum() == 8 * 8
    marked.point(25, 20, 1, candidates)
    assert marked.marks.points == ((21, 20, 1), (25, 20, 1)) and not marked.marks.words


def test_a_stroke_has_no_gaps(marked):
    marked.stroke([[10, 10], [30, 12], [50, 40], [20, 50]], 3, False)
    for (x0, y0), (x1, y1) in (((10, 10), (30, 12)), ((30, 12), (50, 40)), ((50, 40), (20, 50))):
        for share in np.linspace(0, 1, 50):
            x, y = round(x0 + share * (x1 - x0) - 0.5), round(y0 + share * (y1 - y0) - 0.5)
            assert marked.mask[y, x]


def test_undo_goes_back_over_every_kind_of_mark(marked):
    masks = [marked.mask]
    for change in (
        lambda: marked.point(40, 30, 1, candidates),
        lambda: marked.choose(0),
        lambda: marked.grow(3),
        lambda: marked.stroke([[3, 3]], 2, False),
        marked.clear,
    ):
        change()
        masks.append(marked.mask)
    for mask in reversed(masks[:-1]):
        marked.undo()
        assert np.array_equal(marked.mask, mask)
    marked.undo()
    assert not marked.mask.any()
    for mask in masks[1:]:
        marked.redo()
        assert np.array_equal(marked.mask, mask)
    marked.undo()
    marked.grow(1)
    other = marked.mask
    marked.redo()
    assert np.array_equal(marked.mask, other), "after another change there is nothing to redo"


def test_grow_and_shrink_undo_each_other_on_a_square(marked):
    marked.point(40, 30, 1, candidates)
    before = marked.mask
    marked.grow(2)
    assert marked.mask.sum() > before.sum()
    marked.grow(-2)
    assert np.array_equal(marked.mask, before)


def test_a_mask_goes_out_and_comes_back_the_same(marked):
    marked.point(40, 30, 1, candidates)
    mask = marked.mask
    other = MarkedPicture()
    other.show(marked.image)
    other.load_mask(png_bytes(mask))
    assert np.array_equal(other.mask, mask)


def test_a_mask_of_another_shape_is_refused(marked):
    with pytest.raises(MaskError, match="80 × 60"):
        marked.load_mask(png_bytes(np.ones((60, 60), bool)))


def test_a_large_picture_is_made_smaller_and_takes_its_old_mask(marked):
    marked.show(Image.new("RGB", (4000, 3000)))
    assert marked.image.size == (1536, 1152)
    mask = np.zeros((3000, 4000), bool)
    mask[1000:2000, 1000:3000] = True
    marked.load_mask(png_bytes(mask))
    assert marked.mask.mean() == pytest.approx(mask.mean(), abs=0.002)


@pytest.mark.parametrize("place", [(-1, 0), (80, 0), (0, 60), ("x", 1), (None, None), (float("nan"), 1), (True, 1)])
def test_a_click_off_the_picture_is_refused_and_changes_nothing(marked, place):
    with pytest.raises(SegmentError, match="click inside"):
        marked.point(*place, 1, candidates)
    assert not marked.marks.points


def test_clicks_are_limited(marked):
    for index in range(MAX_POINTS):
        marked.point(index, 1, 1, candidates)
    with pytest.raises(SegmentError, match=str(MAX_POINTS)):
        marked.point(1, 1, 1, candidates)


@pytest.mark.parametrize("points", [None, [], "x", [[1]], [[1, "a"]], [1, 2], [[0, 0]] * 10_000, [[1e9, 0]]])
def test_a_stroke_that_is_none_is_refused(marked, points):
    with pytest.raises(EditError):
        marked.stroke(points, 3, False)


def test_a_background_click_before_any_on_the_subject_says_what_to_do(marked):
    with pytest.raises(SegmentError, match="subject first"):
        marked.point(1, 1, 0, candidates)


def test_the_edit_says_what_is_missing_in_the_order_of_the_page():
    session = Session()
    with pytest.raises(EditError, match="no photo yet"):
        session.edit(WORDS, "keep", False)
    session.photo.show(photo(80, 60))
    with pytest.raises(MaskError, match="click on it in the photo"):
        session.edit(WORDS, "keep", False)
    session.photo.point(40, 30, 1, candidates)
    with pytest.raises(EditError, match="no reference picture yet"):
        session.edit(WORDS, "reference", False)
    with pytest.raises(EditError, match="Generate backgrounds"):
        session.edit(WORDS, "generate", False)
    assert session.edit(WORDS, "keep", False).object_prompt == "a dog jumping"


def test_swapping_roles_takes_the_subject_from_the_reference():
    session = Session()
    session.photo.show(photo(80, 60))
    session.reference.show(photo(64, 64, seed=1))
    session.reference.point(30, 30, 1, candidates)
    edit = session.edit(WORDS, "reference", True)
    assert edit.object_image.size == (64, 64)
    assert np.array_equal(edit.object_mask, session.reference.mask)
    assert edit.background_mask is None


def test_the_edit_is_the_same_object_until_something_changes():
    session = Session()
    session.photo.show(photo(80, 60))
    session.photo.point(40, 30, 1, candidates)
    edit = session.edit(WORDS, "keep", False)
    assert session.edit(WORDS, "keep", False) is edit
    session.placement = Placement(scale=1.2)
    assert session.edit(WORDS, "keep", False) is not edit


def test_a_copied_session_is_an_empty_one():
    session = Session()
    session.photo.show(photo(80, 60))
    assert copy.deepcopy(session).photo.image is None
