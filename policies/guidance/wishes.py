"""Wishes: what a person wants of named quantities, as text. `speed = 2 +- 0.3, torso_height > 1.1` is two terms.

A term is `name = number +- number`, `name < number`, `number < name < number`, with `>`, `<=`, `>=` likewise; after a
number may stand the quantity's unit. Commas join terms, all of which are to hold. A via-point is
`name = number +- number at number s`.

A library holds guidances in words. Which of them a sentence means is told as a set with the right one 9 times in 10: a
ridge map from sentence vectors (`policies.text_encoder`) to the library's entries is fitted to all their texts. How
much lower than the best the right entry may score is learned from these texts, each scored by a map fitted without it
(conformal prediction, cross-validated by leaving one out: Barber et al. 2021, arXiv 1905.02928).
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from policies.guidance.storage import Reading
from policies.text_encoder import WORDS
from worldmodel.errors import UserError
from worldmodel.settings import Term
from worldmodel.strict import build

READABLE = 0.5
"""The least R2 of a probe whose quantity can be wished for."""
LONG = ".yaml", ".yml"
NAME = r"[A-Za-z_][\w./]*(?:\[\d+\])*"
NUMBER = r"(?P<{0}>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<{0}_unit>[A-Za-z°%][^\s<>=≤≥±+,]*)?"
LESS = r"(?P<{}>[<>]=?|[≤≥])"
ABOUT = re.compile(rf"(?P<name>{NAME})\s*==?\s*{NUMBER.format('middle')}\s*(?:\+-|\+/-|±)\s*{NUMBER.format('half')}")
SIDES = re.compile(
    rf"(?:{NUMBER.format('left')}\s*{LESS.format('before')}\s*)?(?P<name>{NAME})"
    rf"(?:\s*{LESS.format('after')}\s*{NUMBER.format('right')})?"
)
VIA = re.compile(rf"{ABOUT.pattern}\s+at\s+{NUMBER.format('at')}")
FORMS = "name = 1 +- 0.1, name > 1, name < 1 or 1 < name < 2"


@dataclass(frozen=True)
class Wish:
    """What `want=` says, term by term; a file may add a sentence of its own and the weight."""

    want: tuple[str, ...]
    sentence: str = ""
    weight: float | None = None


def read(want: str) -> Wish:
    """Return the wish that `want` is, or that the YAML file holds which it names. Raises UserError."""
    if not want.strip().endswith(LONG):
        return Wish(tuple(want.split(",")))
    said = read_yaml(Path(want), "want")
    if not isinstance(said, dict) or not said.keys() <= {"want", "sentence", "weight"} or not _texts(said.get("want")):
        raise UserError(f"want={want}: a list of terms below want:, and perhaps sentence: and weight:")
    sentence, weight = said.get("sentence", ""), said.get("weight")
    if not isinstance(sentence, str) or not (weight is None or (type(weight) in (int, float) and 0 <= weight <= 1)):
        raise UserError(f"want={want}: sentence: a text; weight: a number from 0 to 1")
    return Wish(tuple(part for text in said["want"] for part in text.split(",")), sentence, weight)


def read_yaml(path: Path, key: str):
    """Read plain data from a YAML file that the key `key` names. Raises UserError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{key}={path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{key}={path}: not YAML ({' '.join(str(error).split())})") from error


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def parse(want: Sequence[str], units: Mapping[str, str]) -> tuple[Term, ...]:
    """Return the terms of a wish, one of each quantity of `units`, in order. Raises UserError, saying where."""
    terms = []
    for at, text in enumerate(want):
        try:
            terms.append(_term(text.strip(), units))
        except UserError as error:
            place = f"term {at + 1} of {len(want)}, " if len(want) > 1 else ""
            raise UserError(f"want=: {place}'{text.strip()}': {error}") from error
    return intersected(terms)


def _term(text: str, units: Mapping[str, str]) -> Term:
    if not text:
        raise UserError(f"empty; {FORMS}")
    if found := ABOUT.fullmatch(text):
        middle, half = (_number(found, each, units) for each in ("middle", "half"))
        if half <= 0:
            raise UserError("after +- comes how far it may be off, a number above 0")
        return Term(found["name"], _neat(middle - half), _neat(middle + half))
    found = SIDES.fullmatch(text)
    if not found or not (found["before"] or found["after"]):
        if re.fullmatch(rf"{NAME}\s*==?\s*{NUMBER.format('middle')}", text):
            raise UserError(f"how far may it be off? {text} +- 0.1")
        raise UserError(f"not of the form {FORMS}")
    low, high = -math.inf, math.inf
    for side, sign in (("left", found["before"]), ("right", found["after"])):
        if not sign:
            continue
        value = _number(found, side, units)
        if (sign[0] in "<≤") == (side == "left"):
            low = max(low, value)
        else:
            high = min(high, value)
    if found["before"] and found["after"] and not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("its two signs point at each other; 1 < name < 2")
    if low >= high:
        raise UserError(f"nothing is above {low:g} and below {high:g}")
    return Term(found["name"], low, high)


def parse_via(said: str, joints: Mapping[str, str]) -> list[tuple[str, float, float, float]]:
    """Return joint, value, half width and seconds of each via-point of `joints`, with their units. Raises UserError."""
    result = []
    for text in map(str.strip, said.split(",")):
        found = VIA.fullmatch(text)
        try:
            if not found:
                raise UserError("not of the form name = 20 +- 2 at 1.0 s")
            if found["name"] not in joints:
                raise UserError(f"no such joint; there are {', '.join(joints)}")
            value, half, at = *(_number(found, each, joints) for each in ("middle", "half")), float(found["at"])
            if not half > 0 < at < math.inf or found["at_unit"] not in (None, "s"):
                raise UserError("after +- comes how far it may be off, after at when, in s: numbers above 0")
        except UserError as error:
            raise UserError(f"via=: '{text}': {error}") from error
        result.append((found["name"], value, half, at))
    return result


def _number(found: re.Match, which: str, units: Mapping[str, str]) -> float:
    name, unit, value = found["name"], found[f"{which}_unit"], float(found[which])
    if name not in units:
        raise UserError(unknown(name, units))
    if unit and unit != units[name]:
        raise UserError(
            f"{name} is in {units[name]}, not {unit}"
            if units[name]
            else f"the unit of {name} is unknown; without {unit}"
        )
    if not math.isfinite(value):
        raise UserError(f"{found[which]}: a finite number")
    return value


def unknown(name: str, known: Iterable[str]) -> str:
    """Return a line about a quantity that there is not."""
    near = difflib.get_close_matches(name, [*known], n=3, cutoff=0.4) or sorted(known)[:6]
    return f"{name}: no such quantity; near it: {', '.join(near)}; show=quantities prints the table"


def _neat(value: float) -> float:
    """Round off what subtracting decimal fractions left: 0.1 - 0.02 is 0.08."""
    return float(f"{value:.12g}")


def intersected(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return one term for each quantity, which holds where all of its terms do. Raises UserError if nowhere."""
    result: dict[str, Term] = {}
    for term in terms:
        name, before = term.quantity, result.get(term.quantity, term)
        result[name] = Term(name, max(before.low, term.low), min(before.high, term.high))
        if result[name].low >= result[name].high:
            raise UserError(f"want=: {written([before])} and {written([term])} contradict each other")
    return tuple(result.values())


def check(terms: Sequence[Term], readings: Mapping[str, Reading], beyond: bool) -> None:
    """Raise UserError if the latent does not hold a term's quantity or, unless `beyond`, no such value was seen."""
    for term in terms:
        name, read = term.quantity, readings[term.quantity]
        if not read.r2 >= READABLE:
            least = f"R2 {read.r2:.2f} on held-out episodes, at least {READABLE} is needed"
            raise UserError(f"{name}: the latent does not hold it ({least}); show=quantities prints which it does")
        if not beyond and (term.low > read.high or term.high < read.low):
            nearest = read.high if term.low > read.high else read.low
            seen = f"the nearest seen is {nearest:.4g} {read.unit}".rstrip()
            raise UserError(f"{written([term])}: never seen; {seen}; beyond=true asks for it all the same")


def written(terms: Iterable[Term]) -> str:
    """Return terms as a wish, from which `parse` makes the same terms."""
    each = ((term, f"{term.low!r} <= ", f" <= {term.high!r}") for term in terms)
    return ", ".join(f"{a * math.isfinite(t.low)}{t.quantity}{b * math.isfinite(t.high)}" for t, a, b in each)


def sentence(terms: Sequence[Term], units: Mapping[str, str]) -> str:
    """Return terms in plain English: keep speed at 2 ± 0.3 m/s and torso_height above 1.1 m."""
    parts = [f"{term.quantity} {_words(term)} {units[term.quantity]}".rstrip() for term in terms]
    return f"keep {', '.join(parts[:-1])}{' and ' * (len(parts) > 1)}{parts[-1]}" if parts else ""


def _words(term: Term) -> str:
    if math.isfinite(term.low) and math.isfinite(term.high):
        return f"at {_neat((term.low + term.high) / 2):.4g} ± {_neat((term.high - term.low) / 2):.4g}"
    return f"above {term.low:.4g}" if math.isfinite(term.low) else f"below {term.high:.4g}"


RIDGE = 0.3
COVERED = 0.93
"""How often the set holds the right entry, for texts such as the library's; for other people's a little less often."""
ALIKE = 0.2
"""The least similarity (cosine) of a sentence to one of the library's for it to mean anything there."""


@dataclass(frozen=True)
class Entry:
    """A guidance of a library: its sentence, the wish that it stands for, other ways to say it."""

    sentence: str
    want: tuple[str, ...]
    paraphrases: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All the ways to say it."""
        return (self.sentence, *self.paraphrases)


def read_library(path: Path) -> tuple[Entry, ...]:
    """Read a YAML file, a list of entries. Raises UserError."""
    listed = read_yaml(path, "library")
    if not isinstance(listed, list) or len(listed) < 2 or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"library={path}: a list of at least two entries of sentence, want and paraphrases")
    try:
        return tuple(build(Entry, each, f"entry {at + 1}: ") for at, each in enumerate(listed))
    except UserError as error:
        raise UserError(f"library={path}: {error}") from error


def meant(words: str, library: Sequence[Entry]) -> list[Entry]:
    """Return the entries that `words` may mean, likeliest first; one's own text means it alone. Raises UserError."""
    plain = " ".join(words.casefold().split()).rstrip(".! ")
    if same := [entry for entry in library if plain in [text.casefold() for text in entry.texts]]:
        return same
    owner = torch.tensor([at for at, entry in enumerate(library) for _ in entry.texts])
    known, new = WORDS.encode([text for entry in library for text in entry.texts]), WORDS.encode([words])
    label = torch.nn.functional.one_hot(owner, len(library)).float() - 1 / len(library)
    gram = known @ known.T
    inverse = torch.linalg.inv(gram + RIDGE * torch.eye(len(known)))
    hat = gram @ inverse
    held = (hat @ label - hat.diagonal()[:, None] * label) / (1 - hat.diagonal()[:, None])  # each without itself
    lower = (held.amax(1) - held[torch.arange(len(known)), owner]).sort().values
    allowed = lower[min(len(known), math.ceil((len(known) + 1) * COVERED)) - 1]
    if float((new @ known.T).max()) < ALIKE:
        raise UserError(f"words='{words}': like nothing in the library: {'; '.join(e.sentence for e in library)}")
    score = (new @ known.T @ inverse @ label)[0]
    return [library[i] for i in score.argsort(descending=True).tolist() if score.max() - score[i] <= allowed]
