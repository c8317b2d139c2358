"""Split a prompt into what the subject does and where it is, and say which words a text encoder cuts off.

The splitter is a set of rules for English scene phrases: which preposition, before which noun. It knows no
grammar and will be wrong at times, but it never loses a word, and its parts are meant to be edited.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Before nearly any noun these begin a scene: "in the forest", "under a bridge".
_PLACE_PREPOSITIONS = _words(
    "in on at under underneath beneath below above near beside behind between among amongst amid amidst "
    "against inside outside within by atop during beyond alongside opposite aboard upon"
)
# These begin a scene only before a place, "through the snow"; "through a hoop" belongs to the action.
_PATH_PREPOSITIONS = _words("over through across along around down up past into onto toward towards to off out from")
_OTHER_PREPOSITIONS = _words("with without of for like about")
_PREPOSITIONS = _PLACE_PREPOSITIONS | _PATH_PREPOSITIONS | _OTHER_PREPOSITIONS
_SCENE_ADVERBS = _words("outdoors indoors underwater surrounded")
_DETERMINERS = _words(
    "a an the this that these those its his her their my your our some many several two three four five six one"
)
_CLAUSE_ENDS = (",", ";", ":", ".", "!", "?")
_CLAUSE_WORDS = _words("and but or that which who while as when where")

# Nouns that make a preposition speak of the subject: its body, its clothes, what it rides, how it moves.
_OF_THE_SUBJECT = _words(
    "mouth mouths beak back belly side stomach head heads hand hands arm arms paw paws leg legs foot feet "
    "knee knees toe toes tiptoe tiptoes hoof hooves tail tails ear ears eye eyes nose neck shoulder "
    "shoulders face lap wing wings fur feathers teeth tongue mane horns haunches collar leash hat hats cap "
    "coat raincoat jacket suit dress shirt sweater scarf costume armor armour uniform sunglasses glasses "
    "helmet boots shoes gloves cape tie tuxedo pajamas pyjamas robe crown mask spacesuit outfit clothes "
    "clothing bow skateboard bicycle bike motorcycle scooter surfboard snowboard skis unicycle horseback "
    "skates wheels air midair mid-air motion flight profile pose position half love style speed attention "
    "rest play circle circles colour color black camera viewer phone fire"
)
# "on a horse" speaks of the rider; near, behind or beside one is a scene.
_MOUNTS = _words("horse horses pony donkey camel elephant")
_SEEN = _words("seen viewed photographed shot")
_PLACES = _words(
    "forest woods jungle beach sea ocean lake river stream pond waterfall water waves shore coast island "
    "desert dunes sand mountain mountains hill hills valley canyon cliff cliffs meadow field fields grass "
    "grassland savanna prairie snow ice rain fog mist clouds sky space garden park yard backyard lawn farm "
    "barn stable pasture street streets road path trail bridge city town village market square alley highway "
    "sidewalk pavement house home room bedroom kitchen bathroom livingroom office school library museum "
    "castle ruins palace church temple station airport stadium playground zoo pool swamp marsh mud puddle "
    "cave volcano glacier tundra orchard vineyard flowers leaves trees bushes palms cornfield wheat "
    "underwater reef harbour harbor dock pier boat ship train restaurant cafe bar shop store gym stage "
    "studio moon galaxy stars nebula world"
)
_ATMOSPHERE = _words(
    "sunset sunrise dawn dusk night nighttime daytime daylight morning noon afternoon evening twilight "
    "midnight hour sunlight moonlight light lighting lights sun sunny rainy snowy snowing raining foggy "
    "misty cloudy stormy storm thunderstorm lightning snowfall blizzard weather sky skies stars starry fog "
    "mist haze winter summer spring autumn fall backdrop background scenery landscape horizon bokeh rainbow "
    "aurora scene snowflakes"
)
_BEHIND = _words("behind background distance backdrop around overhead horizon")
_ACTIONS = _words(
    "sitting standing lying laying jumping leaping running walking sleeping resting eating drinking flying "
    "swimming playing dancing looking staring barking howling rolling spreading stretching climbing riding "
    "holding wearing carrying kneeling crouching begging waving smiling laughing yawning kissing hugging "
    "crossing raising turning galloping trotting grazing floating diving hopping bouncing skating surfing "
    "skiing cooking reading singing doing giving making chewing biting licking pointing bowing posing racing "
    "driving parked parking crawling hanging jumps leaps runs walks sits stands lies sleeps eats "
    "drinks flies swims plays dances looks rolls rests climbs"
)
# After these the preposition belongs to the verb: "looking at", "covered in", "painted by".
_BOUND_VERBS = {
    "at": _words(
        "looking staring barking pointing growling laughing smiling waving aiming sniffing hissing glancing looks"
    ),
    "in": _words("covered dressed wrapped drenched dipped clad soaked painted interested"),
    "by": _words("made painted drawn ridden held carried chased followed driven photographed shot"),
    "on": _words("chewing biting nibbling gnawing"),
}

_FILES = re.compile(r"<\s*(?:lora|lyco|hypernet|embedding)\s*:[^<>]*>", re.IGNORECASE)
_WEIGHTS = re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)|\(\([^()]*\)\)|\[\[[^\[\]]*\]\]|\w+[+-]{2,}(?!\w)")
_ENGLISH = _words("the a an and with of is are at that its his her their to by from under over near while")
_FOREIGN = _words(
    "ein eine einen der das dem und mit auf im ist unter über springt un une le les des du qui dans sur avec est et el "
    "los las una con en del está il lo gli che nel nella di è um uma no na os com em het een op met van zijn pod na "
    "en på med och ett"
)


def split_prompt(prompt: str) -> tuple[str, str]:
    """(object_prompt, background_prompt): "a dog jumping in the forest" → ("a dog jumping", "in the forest").

    Every word of the prompt is in exactly one of the two, in its order; only punctuation at the seams is
    dropped. The background is "" where the prompt names none, and the object is "" only for an empty prompt.
    """
    words = prompt.split()
    scene: list[bool] = []
    starts: set[int] = set()
    clauses = list(_clauses([_bare(word) for word in words], words))
    for index, clause in enumerate(clauses):
        starts.add(len(scene))
        scene += _label(clause, scene, later=clauses[index + 1 :])
    object_prompt = _join(words, scene, starts, False)
    if not object_prompt:
        return _join(words, [False] * len(words), starts, False), ""
    return object_prompt, _join(words, scene, starts, True)


def subject_noun(object_prompt: str) -> str:
    """What the words call the subject, without what it does: "a small dog jumping over a fence" → "a small dog"."""
    found: list[str] = []
    for word in object_prompt.split():
        bare = _bare(word)
        acts = bare in _ACTIONS or bare in ("is", "are", "upside") or (len(bare) > 5 and bare.endswith("ing"))
        if found and (acts or bare in _PREPOSITIONS | _CLAUSE_WORDS) and not set(map(_bare, found)) <= _DETERMINERS:
            break
        found.append(word)
        if word.endswith(_CLAUSE_ENDS):
            break
    return " ".join(found).strip(" ,;:.!?")


def truncation_warning(tokenizer: Any, text: str, max_length: int | None = None) -> str | None:
    """One sentence with the words of `text` that the text encoder won't read, or None if it reads them all.

    `max_length` counts the two marks around the text, as the tokenizer's own `model_max_length` (the default)
    does. The tokenizer is called as for embedding: it keeps how it pads as a state, which threads would fight over.
    """
    words = text.split()
    rows = tokenizer(
        " ".join(words),
        padding="max_length",
        max_length=tokenizer.model_max_length if max_length is None else max_length,
        truncation=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    if len(rows) == 1:
        return None
    first_cut = rows[1][1][0]  # the character at which the second row begins, after its mark
    low = " ".join(words).count(" ", 0, first_cut)
    cut = words[low:]
    shown = " ".join(cut[:12]) + (f" … ({len(cut)} words)" if len(cut) > 12 else "")
    return f"The model reads only the first {low} words of this prompt and ignores “{shown}”; shorten it."


def prompt_notes(prompts: Iterable[str]) -> list[str]:
    """A sentence for each way in which the prompts ask for what no model here understands, before anything is run."""
    text = " ".join(prompts)
    notes = []
    for pattern, note in ((_FILES, "is read as plain words and loads nothing"), (_WEIGHTS, "changes no word's weight")):
        if found := pattern.search(text):
            notes.append(f"“{found[0]}” {note}: take it out of the prompt.")
    unread = next((word for word in text.split() if any(map(_is_no_latin_letter, word))), None)
    words = {_bare(word) for word in text.split()}
    foreign = words & _FOREIGN
    if unread is not None:
        notes.append(f"The model's words are English: it makes little of “{unread[:20]}”; say it in English.")
    elif not words & _ENGLISH and (len(foreign) > 1 or _bare(text.split(" ")[0]) in foreign):
        notes.append("This doesn't look like English, which is what the model's words are; say it in English.")
    return notes


def _is_no_latin_letter(character: str) -> bool:
    """Whether it is a letter of another script, or a pictograph."""
    if character.isalpha():
        return not unicodedata.name(character, "").startswith(("LATIN", "FEMININE", "MASCULINE", "MICRO"))
    return unicodedata.category(character) == "So"


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'“”‘’()[]–—").lower()


def _clauses(bare: list[str], words: list[str]) -> Iterator[list[str]]:
    clause: list[str] = []
    for lowered, word in zip(bare, words, strict=True):
        clause.append(lowered)
        if word.rstrip("\"'”’)]").endswith(_CLAUSE_ENDS) or word in ("-", "–", "—"):
            yield clause
            clause = []
    if clause:
        yield clause


def _join(words: list[str], scene: list[bool], starts: set[int], side: bool) -> str:
    """The words on one side, with a comma where a clause was taken out between two of them."""
    joined: list[str] = []
    last = -1
    for index, word in enumerate(words):
        if scene[index] is side:
            if joined and index in starts and last != index - 1 and joined[-1][-1] not in _CLAUSE_ENDS:
                joined[-1] += ","
            joined.append(word)
            last = index
    return " ".join(joined).strip(" ,;:–—-").removesuffix(".")


def _label(clause: list[str], before: list[bool], later: list[list[str]]) -> list[bool]:
    """For each word of a clause, whether it is scene; `before` holds that of all words up to it."""
    turns = [_turn(clause, index) for index in range(len(clause))]
    opening = clause[: next((index for index, turn in enumerate(turns) if turn is not None), len(clause))]
    acts = any(word in _ACTIONS for word in clause)
    mood = any(word in _ATMOSPHERE | _PLACES for word in opening) and not acts
    if not before:
        # "Golden hour, a dog jumping": a first clause is scene only if the subject is still to come.
        scene = mood and opening == clause and any(word in _ACTIONS for other in later for word in other)
    elif all(before):
        scene = mood
    else:
        scene = mood or (before[-1] and not acts)
    labels: list[bool] = []
    phrase_words = 0  # of the scene phrase so far
    for index, word in enumerate(clause):
        turn = turns[index]
        if turn is None and scene and phrase_words > 0:
            and_acts = word in ("and", "but") and not _ACTIONS.isdisjoint(clause[index + 1 : index + 2])
            subject_comes = word in _DETERMINERS and all(before) and all(labels)
            # It is not the sofa that sleeps in "a cat on a sofa sleeping".
            if word in _ACTIONS or and_acts or subject_comes:
                turn = False
        if turn is not None:
            scene, phrase_words = turn, 0
        elif word not in _DETERMINERS:
            phrase_words += 1
        labels.append(scene)
    return labels


def _turn(clause: list[str], index: int) -> bool | None:
    """True if a scene phrase begins here, False if one about the subject does, else None."""
    word = clause[index]
    if word in _SCENE_ADVERBS:
        return True
    phrase = _noun_phrase(clause, index)
    if word in ("while", "as", "when", "where"):
        rest = clause[index + 1 :]
        return True if word == "where" or any(other in _ATMOSPHERE for other in rest) else None
    if index and word in _BOUND_VERBS and clause[index - 1] in _BOUND_VERBS[word]:
        return None
    if word in _SEEN and clause[index + 1 : index + 2] == ["from"]:
        return True
    if word in ("next", "close") and clause[index + 1 : index + 2] == ["to"]:
        return True
    if word in ("outside", "inside") and not phrase:
        return True
    if not phrase:
        return None
    head = phrase[-1]
    if word == "with":
        if head.endswith("ing") and len(phrase) > 1:  # "with snow falling"
            head = phrase[-2]
        if head in _BEHIND | _PLACES | _ATMOSPHERE or any(other in _ATMOSPHERE for other in phrase):
            return True
        if _leads_behind(clause[index + 1 + len(phrase) :]):
            return True
        return False if head in _OF_THE_SUBJECT else None
    if word in _PLACE_PREPOSITIONS:
        return head not in (_OF_THE_SUBJECT | _MOUNTS if word == "on" else _OF_THE_SUBJECT)
    if word in _PATH_PREPOSITIONS:
        above = word == "from" and head in ("above", "below", "behind", "afar")
        return True if above or any(other in _PLACES | _ATMOSPHERE for other in phrase) else None
    return None


def _noun_phrase(clause: list[str], index: int) -> list[str]:
    """The words after a preposition up to the next one, or to a verb or conjunction: its noun comes last."""
    start = index + 1
    while start < len(clause) and clause[start] in ("of", "to"):
        start += 1
    phrase: list[str] = []
    for word in clause[start:]:
        ends = word in _PREPOSITIONS | _CLAUSE_WORDS
        if word in ("above", "below", "behind") and not phrase:
            ends = False  # "from above"
        if ends or (word in _ACTIONS and any(other not in _DETERMINERS for other in phrase)):
            break
        phrase.append(word)
    return phrase


def _leads_behind(following: list[str]) -> bool:
    """Whether what follows "with mountains …" puts them into the scene: "behind", "in the background"."""
    if not following:
        return False
    if following[0] in ("behind", "around", "overhead"):
        return True
    return following[0] in ("in", "on") and any(word in _BEHIND for word in following[1:3])
