"""Small worlds with known answers: text, pictures, sounds and three-frame clips, and questions about them.

Everything is drawn from a numpy generator, so a seed gives the same question again.  The pictures have sizes that
fill the processor's budget of 70 soft tokens exactly, so that it does not resize them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Turn = tuple[str, str]

COLOURS = {
    "red": (212, 32, 38),
    "green": (28, 160, 52),
    "blue": (32, 62, 212),
    "yellow": (238, 222, 34),
    "purple": (138, 42, 168),
    "cyan": (42, 202, 212),
}
GROUNDS = {"white": (245, 245, 245), "black": (12, 12, 12), "grey": (128, 128, 128)}
SHAPES = ("square", "circle", "stripes")
PLACES = {"left": (0.25, 0.5), "right": (0.75, 0.5), "top": (0.5, 0.25), "bottom": (0.5, 0.75), "middle": (0.5, 0.5)}
WAYS = ("left", "right", "up", "down")
NUMBERS = ("one", "two", "three", "four", "five")
GLIDES = ("rising", "falling", "steady")
PITCHES = ("high", "low")
WORDS = (
    *("goat", "lamp", "river", "stone", "apple", "cloud", "chair", "boat", "tree", "moon"),
    *("bread", "horse", "glass", "house", "star", "bell", "rope", "leaf", "king", "door"),
)
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "Austria": "Vienna",
    "Ireland": "Dublin",
}
SENTENCES = (
    "the goat sees the moon.",
    "a boat is on the river.",
    "the king opens the door.",
    "a leaf is under the tree.",
    "the horse eats an apple.",
    "a bell is in the house.",
    "the lamp is near the chair.",
    "a star is over the stone.",
)
QUESTIONS = {
    "colour": "What colour is the {}?",
    "shape": "What shape is it?",
    "place": "Where is it?",
    "ground": "What colour is the background?",
    "beeps": "How many beeps?",
    "glide": "Is the tone rising, falling or steady?",
    "pitch": "Is the tone high or low?",
    "way": "Which way does it move?",
    "first": "What colour comes first?",
    "last": "What colour comes last?",
    "moving": "What colour is it?",
    "capital": "What is the capital of {}?",
    "repeat": "Repeat: {}",
    "reverse": "Reverse: {}",
    "count": "How many words: {}",
    "code": "The code is {}. {} What is the code?",
    "picture+sound": "What colour is the shape and how many beeps?",
    "all": "What colour is the shape, how many beeps and which way does it move?",
}
TASKS = ("image", "audio", "video", "text", "image+audio", "image+audio+video")
SIZES = ((384, 384), (336, 480), (480, 336), (288, 528))
COARSE_SIZE = (192, 192)
CLIP_SIZE = (384, 384)
FRAMES = 3
SAMPLE_RATE = 16_000
CHARACTERS = "".join(chr(code) for code in range(33, 127)) + " \n\t"


@dataclass(frozen=True)
class Medium:
    """One picture [height, width, 3], sound [samples] or clip [frames, height, width, 3]."""

    kind: str
    data: NDArray


@dataclass(frozen=True)
class Sample:
    """Media and the questions about them, each with its answer."""

    task: str
    media: list[Medium]
    turns: list[Turn]

    def messages(self, with_answers: bool = False) -> list[dict]:
        """Return the conversation in the chat template's form; without answers the last one stays open."""
        messages = []
        for index, (question, answer) in enumerate(self.turns):
            media = [{"type": medium.kind} for medium in self.media] if index == 0 else []
            messages.append({"role": "user", "content": [*media, {"type": "text", "text": question}]})
            if with_answers or index < len(self.turns) - 1:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return messages


def _pick(rng: Generator, options: "dict | tuple | list") -> str:
    return str(rng.choice(list(options)))


def _tint(rng: Generator, colour: tuple[int, int, int], spread: int) -> Picture:
    """Return the colour with each channel moved by up to `spread`."""
    return np.clip(np.array(colour) + rng.integers(-spread, spread + 1, 3), 0, 255).astype(np.uint8)


def _paint(picture: Picture, shape: str, colour: Picture, centre: tuple[float, float], side: float) -> None:
    """Draw the shape into the picture; `centre` is (x, y) in pixels."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    dx, dy = columns - centre[0], rows - centre[1]
    inside = (np.abs(dx) < side / 2) & (np.abs(dy) < side / 2)
    if shape == "circle":
        inside = dx**2 + dy**2 < (side / 2) ** 2
    elif shape == "stripes":
        inside &= (dx + side / 2) % 32 < 16
    picture[inside] = colour


def draw_picture(rng: Generator, size: tuple[int, int]) -> tuple[Picture, list[Turn], str]:
    """Return one shape on a plain ground, the questions about it, and its colour."""
    height, width = size
    ground, shape, colour, place = (_pick(rng, options) for options in (GROUNDS, SHAPES, COLOURS, PLACES))
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = _tint(rng, GROUNDS[ground], 10)
    x, y = np.array(PLACES[place]) + rng.uniform(-0.04, 0.04, 2)
    side = rng.uniform(0.42, 0.56) * min(size)
    _paint(picture, shape, _tint(rng, COLOURS[colour], 18), (x * width, y * height), side)
    turns = [
        (QUESTIONS["colour"].format(shape), colour),
        (QUESTIONS["shape"], shape),
        (QUESTIONS["place"], place),
        (QUESTIONS["ground"], ground),
    ]
    return picture, turns, colour


def _tone(frequency: "float | NDArray", samples: int) -> NDArray:
    """Return a sine of the given frequency (or glide) with short ramps at both ends."""
    phase = np.cumsum(np.broadcast_to(frequency, (samples,))) * (2 * np.pi / SAMPLE_RATE)
    ramp = np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / 80)
    return 0.5 * ramp * np.sin(phase)


def _seconds(rng: Generator, shortest: float, longest: float) -> int:
    return int(SAMPLE_RATE * rng.uniform(shortest, longest))


def _beeps(rng: Generator, frequency: float, count: int) -> NDArray:
    length = _seconds(rng, 0.07, 0.12)
    parts = [np.zeros(_seconds(rng, 0.03, 0.12))]
    for _ in range(count):
        parts += [_tone(frequency, length), np.zeros(_seconds(rng, 0.1, 0.18))]
    return np.concatenate(parts)


def _glide(rng: Generator, rising: bool) -> NDArray:
    samples = _seconds(rng, 0.5, 1.0)
    low, high = rng.uniform(250, 600), rng.uniform(1800, 3200)
    path = np.linspace(0, 1, samples)
    return _tone(low * (high / low) ** (path if rising else 1 - path), samples)


def _in_room(rng: Generator, sound: NDArray) -> NDArray[np.float32]:
    """Vary the loudness, add faint noise, and often some silence after the sound."""
    room = int(1.2 * SAMPLE_RATE) - len(sound)
    if room > 0 and rng.random() < 0.7:
        sound = np.concatenate([sound, np.zeros(int(rng.integers(0, room + 1)))])
    return (sound * rng.uniform(0.6, 1.2) + 0.002 * rng.standard_normal(len(sound))).astype(np.float32)


def make_sound(rng: Generator, kind: "str | None" = None) -> tuple[NDArray[np.float32], list[Turn], str]:
    """Return beeps, a glide or a steady tone, the questions about it, and (for beeps) their number."""
    kind = kind or _pick(rng, ("beeps", "beeps", "glide", "tone"))
    pitch = _pick(rng, PITCHES)
    frequency = rng.uniform(1800, 3200) if pitch == "high" else rng.uniform(250, 550)
    if kind == "beeps":
        number = _pick(rng, NUMBERS[:4])
        sound = _beeps(rng, frequency, NUMBERS.index(number) + 1)
        return _in_room(rng, sound), [(QUESTIONS["beeps"], number), (QUESTIONS["pitch"], pitch)], number
    if kind == "glide":
        direction = _pick(rng, GLIDES[:2])
        return _in_room(rng, _glide(rng, direction == "rising")), [(QUESTIONS["glide"], direction)], ""
    sound = _tone(frequency, _seconds(rng, 0.5, 1.0))
    return _in_room(rng, sound), [(QUESTIONS["glide"], "steady"), (QUESTIONS["pitch"], pitch)], ""


def _moving(rng: Generator, size: tuple[int, int]) -> tuple[Picture, list[Turn], str]:
    """Return a clip of a square that crosses the picture."""
    height, width = size
    way, colour, ground = (_pick(rng, options) for options in (WAYS, COLOURS, GROUNDS))
    paint, side = _tint(rng, COLOURS[colour], 18), rng.uniform(0.36, 0.5) * min(size)
    start, across = rng.uniform(0.15, 0.35), rng.uniform(0.3, 0.7)
    path = np.linspace(start, start + rng.uniform(0.45, 0.52), FRAMES)
    clip = np.empty((FRAMES, height, width, 3), np.uint8)
    clip[:] = _tint(rng, GROUNDS[ground], 10)
    for frame, along in zip(clip, path if way in ("right", "down") else 1 - path, strict=True):
        x, y = (along, across) if way in ("left", "right") else (across, along)
        _paint(frame, "square", paint, (x * width, y * height), side)
    return clip, [(QUESTIONS["way"], way), (QUESTIONS["moving"], colour)], way


def _changing(rng: Generator, size: tuple[int, int]) -> tuple[Picture, list[Turn], str]:
    """Return a clip of plain frames that changes its colour once."""
    first, last = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    clip = np.empty((FRAMES, *size, 3), np.uint8)
    change = int(rng.integers(1, FRAMES))
    clip[:change], clip[change:] = _tint(rng, COLOURS[first], 18), _tint(rng, COLOURS[last], 18)
    return clip, [(QUESTIONS["first"], first), (QUESTIONS["last"], last)], ""


def make_clip(rng: Generator, size: tuple[int, int], kind: "str | None" = None) -> tuple[Picture, list[Turn], str]:
    """Return a three-frame clip, the questions about it, and (where a thing moves) its direction."""
    kind = kind or ("moving" if rng.random() < 0.65 else "changing")
    return _moving(rng, size) if kind == "moving" else _changing(rng, size)


def _words(rng: Generator, fewest: int, most: int, replace: bool = False) -> list[str]:
    return [str(word) for word in rng.choice(WORDS, int(rng.integers(fewest, most + 1)), replace=replace)]


def make_text(rng: Generator, kind: "str | None" = None) -> Turn:
    """Return a question that needs no media."""
    kind = kind or _pick(rng, ("capital", "repeat", "reverse", "count", "code"))
    question = QUESTIONS[kind]
    if kind == "capital":
        country = _pick(rng, CAPITALS)
        return question.format(country), CAPITALS[country]
    if kind == "code":
        code, story = _pick(rng, WORDS), rng.choice(SENTENCES, int(rng.integers(5, 10)))
        return question.format(code, " ".join(story)), code
    if kind == "count":
        words = _words(rng, 1, 5, replace=True)
        return question.format(" ".join(words)), NUMBERS[len(words) - 1]
    words = _words(rng, 2, 4 if kind == "repeat" else 3)
    return question.format(" ".join(words)), " ".join(words if kind == "repeat" else words[::-1])


def _without_hints(rng: Generator, turns: list[Turn]) -> list[Turn]:
    """Ask the shape before "What colour is the square?" gives it away, or leave that question out."""
    questions = [question for question, _ in turns]
    if QUESTIONS["shape"] not in questions:
        return turns
    shape = questions.index(QUESTIONS["shape"])
    hint = questions.index(QUESTIONS["colour"].format(turns[shape][1]))
    if hint > shape:
        return turns
    if rng.random() < 0.5:
        return turns[:shape] + turns[shape + 1 :]
    turns[hint], turns[shape] = turns[shape], turns[hint]
    return turns


def _combined(rng: Generator, task: str, coarse: bool) -> Sample:
    """Return one question about several media at once."""
    picture, _, colour = draw_picture(rng, COARSE_SIZE if coarse else SIZES[rng.integers(len(SIZES))])
    sound, _, number = make_sound(rng, "beeps")
    media = [Medium("image", picture), Medium("audio", sound)]
    if task == "image+audio":
        return Sample(task, media, [(QUESTIONS["picture+sound"], f"{colour} {number}")])
    clip, _, way = make_clip(rng, COARSE_SIZE if coarse else CLIP_SIZE, "moving")
    return Sample(task, [*media, Medium("video", clip)], [(QUESTIONS["all"], f"{colour} {number} {way}")])


def _text_turns(rng: Generator, training: bool) -> list[Turn]:
    turns = [make_text(rng)]
    while training and sum(len(question) for question, _ in turns) < 180:
        turns.append(make_text(rng))
    return turns


def draw(rng: Generator, task: str, training: bool = False, coarse: bool = False) -> Sample:
    """Return a sample of the task; in training it asks all its questions, otherwise one."""
    if task == "text":
        return Sample(task, [], _text_turns(rng, training))
    if "+" in task:
        return _combined(rng, task, coarse)
    if task == "image":
        data, turns, _ = draw_picture(rng, COARSE_SIZE if coarse else SIZES[rng.integers(len(SIZES))])
    elif task == "audio":
        data, turns, _ = make_sound(rng)
    else:
        data, turns, _ = make_clip(rng, COARSE_SIZE if coarse else CLIP_SIZE)
    turns = [turns[index] for index in rng.permutation(len(turns))]
    return Sample(task, [Medium(task, data)], _without_hints(rng, turns) if training else turns[:1])


def corpus() -> list[str]:
    """Return the text that the tokenizer's merges are learned from: every question and every answer."""
    answers = [*COLOURS, *GROUNDS, *SHAPES, *PLACES, *WAYS, *NUMBERS, *GLIDES, *PITCHES, *WORDS]
    lines = [*QUESTIONS.values(), *SENTENCES, "user\n", "model\n", "system\n", "thought\n", "00:00 00:01 00:02"]
    lines += [f" {answer} {answer}\n{answer}" for answer in answers for _ in range(2)]
    lines += [f" {country} {city}\n{city}" for country, city in CAPITALS.items()]
    return lines * 30 + [CHARACTERS] * 3
