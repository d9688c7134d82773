"""Does the chat template say what was said, and does an answer end where a turn ends?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ...loaders.messages import Message
from ...loaders.prompt import PromptFormat
from ...loaders.template import TEMPLATE_FILE
from .checking import Notes, SkipError
from .outcome import Finding
from .subject import Subject

RULES, QUESTION, ANSWER, REPLY = "Answer in one word.", "Which one is it?", "Violet.", "And after that?"
EOS = "<eos>"


def turns(kinds: Sequence[str]) -> list[Message]:
    """A system turn, a question about one medium of each kind, an answer, and another question."""
    media: list[Message] = [{"type": kind} for kind in kinds]
    return [
        {"role": "system", "content": RULES},
        {"role": "user", "content": [*media, {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": REPLY},
    ]


def chat_template(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """A fixed conversation comes out whole: BOS, every text, a placeholder for every medium, the model's turn."""
    prompt = _with_template(subject)
    messages = turns(list(prompt.marks))
    text, closed = prompt.render(messages), prompt.render(messages, add_generation_prompt=False)
    notes.figures.update(text=text, tokens=len(prompt.encode(text)))
    found = partial(Finding, where=TEMPLATE_FILE)
    if places := _misplaced(text):
        yield found(f"the conversation comes out without {places[0]!r}, or in another order")
    for kind, marks in prompt.marks.items():
        if (count := text.count(marks.placeholder)) != 1:
            yield found(f"one {kind} comes out as {count} times {marks.placeholder}")
    yield from _begin(prompt, text)
    yield from _opening(text, closed)


def _with_template(subject: Subject) -> PromptFormat:
    if subject.prompt.template is None:
        raise SkipError("a base checkpoint: there is no chat template")
    return subject.prompt


def _misplaced(text: str) -> list[str]:
    """What was said and does not come out, in its order."""
    position, lost = 0, []
    for said in (RULES, QUESTION, ANSWER, REPLY):
        place = text.find(said, position)
        if place < 0:
            lost.append(said)
        else:
            position = place + len(said)
    return lost


def _begin(prompt: PromptFormat, text: str) -> Iterator[Finding]:
    bos = prompt.tokenizer.id_to_token(prompt.config.text.bos_token_id)
    if bos is not None and not text.startswith(bos):
        yield Finding(f"the conversation does not begin with {bos}", TEMPLATE_FILE)
    if bos is not None and text.count(bos) > 1:
        yield Finding(f"the conversation has {bos} {text.count(bos)} times", TEMPLATE_FILE)


def _opening(text: str, closed: str) -> Iterator[Finding]:
    """With `add_generation_prompt` the text goes on as the model's turns begin."""
    opening = text.removeprefix(closed)
    if opening in ("", text):
        yield Finding("add_generation_prompt does not open the model's turn", TEMPLATE_FILE)
        return
    _, _, after = closed.partition(QUESTION)
    before_answer = after.partition(ANSWER)[0]
    if (line := opening.splitlines()[0].strip()) not in before_answer:
        yield Finding(f"add_generation_prompt opens {line!r}, which begins no turn of the model", TEMPLATE_FILE)


def stop_tokens(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """An answer ends at `<eos>`, and at the token that closes a turn of the model; every stop token exists."""
    prompt = subject.prompt
    tokens = {token: prompt.tokenizer.id_to_token(token) for token in sorted(prompt.stop_ids)}
    notes.figures["stop_tokens"] = {str(token): text for token, text in tokens.items()}
    for token, text in tokens.items():
        if text is None:
            yield _lacking(f"the stop token {token} is no token of tokenizer.json")
    if (end := prompt.tokenizer.token_to_id(EOS)) is not None and end not in tokens:
        yield _lacking(f"{EOS} ({end}) is not among the stop tokens {list(tokens)}")
    if prompt.template is not None:
        yield from _turn_end(prompt)


def _turn_end(prompt: PromptFormat) -> Iterator[Finding]:
    said: list[Message] = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    _, _, after = prompt.render(said, add_generation_prompt=False).partition(ANSWER)
    ids = prompt.tokenizer.encode(after.strip(), add_special_tokens=False).ids
    if not ids:
        yield Finding("nothing closes a turn of the model", TEMPLATE_FILE)
    elif ids[0] not in prompt.stop_ids:
        text = prompt.tokenizer.id_to_token(ids[0])
        yield _lacking(f"{text} ({ids[0]}) closes a turn of the model, and is not among {sorted(prompt.stop_ids)}")


def _lacking(what: str) -> Finding:
    return Finding(what, "eos_token_id", "take generation_config.json of the source")
