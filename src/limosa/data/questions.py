"""Read questions about series in English: what is asked, of which series, over which time. Rules, no model.

A question is cut into clauses, and each clause gets what it asks for (`Question.kind`), its spans, its series and a
threshold. What is not understood is said in `Question.problem`, never guessed: a question about causes, a word that
stands where a series' name would and is none, a clause that asks for nothing there is an answer to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from limosa.data.spans import Ahead, Extent, Span, read_spans
from limosa.data.vocabulary import KINDS, PATTERNS, REFUSED, WORDS

_OPENING = (
    r"(?:in|on|during|for|over|since|from|between|after|before|at|of|within|as of|throughout|compared (?:to|with))\b"
)
_ABOVE = (
    r"exceed\w*|above|over|more than|greater than|higher than|larger than|at least|"
    r"reach\w*|pass(?:es|ed)?|top|surpass\w*|cross\w*|>|up to|"
    r"beyond|in excess of|past"
)
_BELOW = (
    r"below|under|less than|lower than|smaller than|fewer than|at most|"
    r"(?:fall|fell|drop|dropped|sink|sank|go|went|stay|stayed) (?:below|under)|<|beneath|short of"
)
_VALUE = (
    r"(-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)(k|m)?(?!\d)"
    r"(?! ?(?:days?|weeks?|hours?|months?|years?|minutes?|steps?|rows?|quarters?)\b)(?![-:]\d)"
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One clause of a question. Empty spans are the whole table, empty series all of them."""

    text: str
    kind: str = ""  # of `KINDS`; "" where `problem` says why it cannot be answered
    spans: tuple[Span, ...] = ()
    ahead: Ahead | None = None
    series: tuple[str, ...] = ()
    threshold: float | None = None
    above: bool = True
    ranked: bool = False  # which of the series
    lowest: bool = False  # the smallest comes first where series are ranked
    number: int = 1  # of maxima or minima to name
    by: str = ""  # day, week, month, ... whose means are looked at
    problem: str = ""


def read_questions(text: str, extent: Extent, names: Sequence[str]) -> list[Question]:
    """The clauses of `text`, in their order; a clause without a series or a span takes those of the clause before."""
    clauses: list[Question] = []
    plain = " ".join(text.replace("\u2019", "'").split())
    masked, kept = _without_names(plain, names)
    for part in _split(masked):
        for clause in _read(part, extent, names, kept):
            lacking = clauses and clause.kind and not clause.series
            clauses.append(replace(clause, series=clauses[-1].series) if lacking else clause)
    return clauses or [Question(text=text, problem="there is no question")]


def _without_names(text: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """The text in lower case with `\u00a70`, `\u00a71`, ... for names of series, and which name each stands for."""
    kept: list[str] = []
    text = text.lower()
    for name in sorted(names, key=len, reverse=True):
        spelled = r"[\s_\-./]+".join(map(re.escape, re.split(r"[\s_\-./]+", name.lower())))
        quotes = "[\"'`]?"
        if len(name) == 1:  # "a" is a word
            quotes = "[\"'`]"
            pattern = rf"{quotes}{spelled}{quotes}|\b(?:series|channel|column) {spelled}\b" + (
                "" if name.lower() in "ai" else rf"|(?<![\w§'-]){spelled}(?![\w-])"
            )
        else:
            pattern = rf"{quotes}(?<![\w§]){spelled}(?!\w)(?:'s\b)?{quotes}"
        if re.search(pattern, text):
            text = re.sub(pattern, f" §{len(kept)} ", text)
            kept.append(name)
    return " ".join(text.split()), kept


def _split(text: str) -> list[str]:
    """Clauses: sentences, and parts that begin with a question word or an auxiliary after a comma, `and` or `then`."""
    starts = (
        r"(?:what|when|how|which|is|are|was|were|will|does|did|do|has|have|why|where|who|should|compare|show|list|tell|"
        r"forecast|predict)\b"
    )
    parts = re.split(rf"[?!;]+|\.(?=\s|$)|,? (?:and|then|but|also)(?: then| also)? (?={starts})|, ?(?={starts})", text)
    whole: list[str] = []
    opening = ""
    for part in (part.strip(" ,") for part in parts if re.search(r"\w", part)):
        if re.match(_OPENING, part) and not re.search(starts, part):  # "during March, when was ..."
            opening += f"{part} "
        else:
            whole.append(opening + part)
            opening = ""
    return [*whole, opening.strip()] if opening else whole


def _read(text: str, extent: Extent, names: Sequence[str], kept: Sequence[str]) -> list[Question]:
    """What one clause asks for: one thing, or several statistics of the same spans and series."""
    series = tuple(kept[int(i)] for i in dict.fromkeys(re.findall(r"\u00a7(\d+)", text)))
    spoken = re.sub(r" *\u00a7(\d+) *", lambda found: f" {kept[int(found[1])]} ", text).strip()
    if why := next((why for pattern, why in REFUSED if re.search(pattern, text)), ""):
        return [Question(text=spoken, problem=why, series=series)]
    rest, threshold, above = _threshold(text, extent)
    rest, spans, ahead = read_spans(rest, extent)
    rest, unknown, others = _spelled(rest)
    if len(others) > 1 or not any(re.search(pattern, rest) for _, pattern in PATTERNS):
        unknown += others
    if unknown and not (len(names) == 1 and names[0].lower() in _NAMELESS):
        problem = f"{unknown[0]!r} is neither a series of the table nor a word that is understood"
        return [Question(text=spoken, problem=problem, series=series)]
    beyond = [span for span in spans if span.first > extent.last]
    if beyond:
        ahead = [Ahead(label=beyond[-1].label, first=extent.end, end=beyond[-1].end)]
        spans = [span for span in spans if span.first <= extent.last]
    found = Question(
        text=spoken,
        spans=tuple(spans),
        ahead=ahead[0] if ahead else None,
        series=series,
        threshold=threshold,
        above=above,
        ranked=len(names) > 1 and len(series) != 1 and bool(_RANKED.search(rest)),
        lowest=bool(_LOWEST.search(rest)),
        number=int(top[1] or top[2]) if (top := _SEVERAL.search(rest)) else 1,
        by=unit[1] if (unit := re.search(r"\b(hour|day|week|month|quarter|year)s?\b", rest)) else "",
    )
    if stray := _STRAY.search(_SEVERAL.sub(" ", rest)):
        return [replace(found, problem=f"the number {stray[0]} has no meaning here")]
    kinds = _kinds(rest, found)
    if not kinds:
        return [replace(found, problem="it asks for nothing that is computed here")]
    if kinds == ["compare"] and max(len(spans), len(series), len(names)) < 2:
        return [replace(found, problem="there are no two series or two times to compare")]
    return [replace(found, kind=kind) for kind in kinds]


def _kinds(rest: str, found: Question) -> list[str]:
    """What the text of a clause asks for, times and thresholds being read."""
    matching = [kind for kind, pattern in PATTERNS if re.search(pattern, rest)]
    if found.threshold is not None:
        return ["exceed_ahead" if found.ahead or "exceed_ahead" in matching else "exceed"]
    if found.ahead is not None:
        return ["sure" if "sure" in matching else "forecast"]
    if len(found.spans) == 2 and not set(matching) & {"anomalies", "missing", "alike"}:
        return ["compare"]
    if not matching:
        return ["overview"] if found.spans or (found.series and len(rest.split()) == 1) else []
    if found.ranked:  # "which series has the highest mean": a mean
        asked = [kind for kind in matching if kind != "extent"] or matching
        matching = [kind for kind in asked if kind not in ("maximum", "minimum")] or asked
    statistics = [kind for kind in matching if kind in STATISTICS]
    if matching[0] in STATISTICS and len(statistics) > 1 and not found.ranked:
        return statistics
    return matching[:1]


STATISTICS = ("maximum", "minimum", "mean", "total", "median", "deviation")
_NAMELESS = (
    "y",
    "x",
    "value",
    "values",
    "target",
    "series_1",
)  # of a single series, which a question may call anything
_RANKED = re.compile(
    r"\bwhich (series|channel|column|one|of|variable|sensor|line|metric)|\beach series\b|\bwhich is the (most|least)|"
    r"\b(rank|sort|order)\b.*\b(series|channels|columns)\b"
)
_LOWEST = re.compile(r"\b(lowest|least|smallest|fewest|worst|slowest|quietest|minimum)\b")
_STRAY = re.compile(r"(?<![\w\u00a7.])\d[\d.,]*\b")
_SEVERAL = re.compile(
    r"\b(?:top|highest|lowest|largest|smallest|biggest) (\d+)\b|"
    r"(?<![\w\u00a7])(\d+) (?:highest|lowest|largest|smallest|biggest)\b"
)


def _threshold(text: str, extent: Extent) -> tuple[str, float | None, bool]:
    """The text with `#` for "above 300", the number, and whether above is meant."""
    for words, above in ((_BELOW, False), (_ABOVE, True)):
        found = re.search(rf"(?:{words}) (?:the |a |of |value |level |threshold )*{_VALUE}", text)
        year = found and re.fullmatch(r"(19|20)\d\d", found[1]) and extent.calendar and found[0].startswith("over")
        if found and not year:
            scale = {"k": 1e3, "m": 1e6, None: 1.0}[found[2]]
            return text[: found.start()] + " # " + text[found.end() :], float(found[1].replace(",", "")) * scale, above
    return text, None, True


def _spelled(text: str) -> tuple[str, list[str], list[str]]:
    """The text with slips of known words put right, words that may name what is not there, and others nobody knows."""
    unknown, others = list[str](), list[str]()
    fixes: dict[str, str] = {}
    for found in re.finditer(r"[a-z][a-z'-]+", text):
        word, stem = found[0], found[0].removesuffix("'s")
        if stem in WORDS or stem in _SPELLABLE or _ASKING.search(stem) or len(stem) < 3 or stem.endswith("ly"):
            continue
        near = difflib.get_close_matches(stem, _SPELLABLE, 1, 0.84) if len(stem) > 4 else []
        before, after = text[: found.start()].split(), text[found.end() :].split()
        if near:
            fixes[word] = near[0]
        elif not before and after and _ARTICLE.match(after[0]):
            others.append(stem)  # a verb, as in "rank the series"
        elif "\u00a7" in text and word == stem and not (before and _BEFORE_NOUN.match(before[-1])):
            others.append(stem)  # beside the name of a series it may be a verb
        else:
            unknown.append(stem)
    for word, right in fixes.items():
        text = re.sub(rf"\b{re.escape(word)}(?!\w)", right, text)
    return text, unknown, others


_ARTICLE = re.compile(r"(?:the|all|every|each|me|us|average|mean|\u00a7)")
_BEFORE_NOUN = re.compile(
    r"(?:the|an?|of|with|by|than|against|to|from|between|per|my|our|on|what|which|many|much|for|in|about|and|or)$"
)
_ASKING = re.compile("|".join(pattern for _, pattern in PATTERNS))
_SPELLABLE = sorted(WORDS | set(re.findall(r"[a-z]{5,}", " ".join(p for _, p in PATTERNS))))


def what_can_be_asked(names: Sequence[str]) -> str:
    """One line of examples."""
    series = f" Series: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}." if len(names) > 1 else ""
    return "One can ask, for example: " + " ".join(f'"{KINDS[kind]}"' for kind in _EXAMPLES) + series


_EXAMPLES = ("overview", "maximum", "trend", "compare", "anomalies", "exceed", "forecast")
