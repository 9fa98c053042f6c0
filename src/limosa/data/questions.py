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

# What can be asked, each with an example. The first pattern that a clause holds decides.
KINDS: dict[str, str] = {
    "overview": "what happened in March?",
    "forecast": "what comes next week?",
    "sure": "how sure is next week?",
    "exceed_ahead": "will it exceed 300 tomorrow?",
    "exceed": "when did it exceed 300?",
    "trend": "is it growing?",
    "season": "is there a weekly pattern?",
    "shift": "when did the level change?",
    "anomalies": "were there anomalies in May?",
    "unusual": "is today unusual?",
    "maximum": "when was the peak?",
    "minimum": "what was the lowest value in Q2?",
    "mean": "what is the average in June?",
    "total": "what is the total of 2012?",
    "median": "what is the median?",
    "deviation": "how volatile is it?",
    "change": "what changed after 5 May?",
    "compare": "compare March and April",
    "alike": "which series are alike?",
    "value": "what was it on 5 May?",
    "missing": "are values missing?",
    "extent": "what does the table cover?",
}
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("exceed_ahead", r"\b(will|going to|chance|probability|likely|risk|could|might|can it|may it)\b.*#|# .*\bnext\b"),
    ("sure", r"\bhow (sure|certain|confident|reliable|uncertain|safe|wide)\b|\b(uncertainty|confidence|error bars?)\b"),
    ("exceed", r"#"),
    ("missing", r"\b(missing|gaps?|holes?|not observed|unobserved|incomplete|complete|nans?|empty|lacking|absent)\b"),
    ("unusual", r"\b(is|was|are|were)\b.*\b(unusual|normal|abnormal|strange|ordinary|typical|odd|exceptional|usual)\b"),
    ("anomalies",
     r"\b(anomal\w+|incidents?|outliers?|spikes?|abnormal\w*|alarms?|unusual\w*|strange\w*|odd|weird|glitch\w*|"
     r"irregular\w*|went wrong|go wrong|faults?)\b"),
    ("season", r"\bweekdays?\b|\b(day|hour|time) of (the )?(day|week)\b|\bmonth of the year\b"),
    ("alike",
     r"\b(alike|similar\w*|resembl\w+|correlat\w+|together|relat\w+|follows?|leads?|lags?|depends?|linked|"
     r"goes with)\b"),
    ("shift",
     r"\b(shift\w*|change[- ]?points?|regime\w*|structural|breaks?|steps?|jump\w*|new level|level chang\w+|"
     r"level (move|go)\w*)\b|\blevel\b.*\bchang\w+|\bchang\w+\b.*\blevel\b"),
    ("forecast",
     r"\b(next|forecast\w*|predict\w*|expect\w*|will|coming|future|tomorrow|outlook|project\w*|ahead|upcoming|"
     r"continue)\b"),
    ("season",
     r"\b(season\w*|cycl\w+|periodic\w*|periods?|repeat\w*|rhythm|pattern|busiest|quietest|weekdays?|"
     r"of the (day|week|year))\b|\b(hourly|daily|weekly|monthly|yearly|annual) (pattern|cycle|season\w*|rhythm|"
     r"profile)\b"),
    ("trend",
     r"\b(trend\w*|grow\w*|rising|rises?|falling|increasing|decreasing|declin\w+|shrink\w*|direction|slope|"
     r"upwards?|downwards?|up or down|going (up|down)|climb\w*|better or worse)\b"),
    ("maximum",
     r"\b(highest|max\w*|peak\w*|largest|most|record|biggest|greatest|top|all-time high|tallest|high point|"
     r"best)\b"),
    ("minimum", r"\b(lowest|min\w*|trough\w*|smallest|least|bottom\w*|worst|low point|all-time low|fewest)\b"),
    ("total", r"\b(total\w*|sum(s|med|ming)?|altogether|cumulative|add\w*( it)? up|in all|overall amount)\b"),
    ("median", r"\bmedian\b"),
    ("mean", r"\b(average\w*|mean|typical\w*|on average|usual level)\b"),
    ("deviation",
     r"\b(volatil\w+|varia\w+|vary|varies|nois\w+|deviation|spread|stable|stability|fluctuat\w+|steady|"
     r"dispersion)\b"),
    ("compare", r"\b(compare\w*|versus|vs|differ\w*|against|than)\b"),
    ("change",
     r"\b(chang\w+|increase[ds]?|decrease[ds]?|rose|fell|drop\w*|gain\w*|lost|loss|grew|difference|by how much|"
     r"(go|goes|went|gone) (up|down)|"
     r"moved)\b"),
    ("extent",
     r"\b(how (many|long|often)|since when|which series|what series|what columns|names?|frequency|sampl\w+|"
     r"cover\w*|time range|resolution|what is (in|this))\b"),
    ("value",
     r"\b(value|how (high|low|much|large|big)|latest|current\w*|now|last value|reading|level|what (is|was|"
     r"were) (it|§\d+))\b"),
    ("overview",
     r"\b(happen\w*|summar\w+|describe|overview|tell me|explain|report|going on|story|look like|notable|"
     r"interesting|know about|did|do)\b"),
)  # fmt: skip
_REFUSED: tuple[tuple[str, str], ...] = (
    (
        r"\b(why|causes?|caused|because|reasons?|due to|blame|responsible|root cause|explain why)\b",
        "causes are not in the table",
    ),
    (
        r"\b(should|recommend\w*|advise|advice|buy|sell|invest|what can we do|how to|how (can|do) (i|we|you))\b",
        "what to do is not in the table",
    ),
    (r"\b(who|whose|whom)\b", "the table holds numbers over time, not people"),
    (r"\b(what if|if we|would have|had we|suppose)\b", "what would have been is not in the table"),
)
_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a about above across actually add after afternoon again against ago ahead all along also always am among
        amongst amount an analyse analyze and answer any anything anytime apart appear are area as aside ask at
        average away back be became because becomes been before began begin behave behaved behaviour being below
        best better between bit both brief briefly but by calculate came can certain chance channel channels chart
        check clear column columns come comes coming compared compute consider considered could count couple course
        current currently curve daily data dataset date dates day days detail details determine did difference
        different do does doing down dozen during each earlier early easily either else end ended ends enough
        evening ever every everything exactly extreme far fast faster fastest few fewer figure figures file final
        finally find first five for four frequently friday from fully further gave general get give given go goes
        going gone good great greater had half happen happened happens hardly has have having hello here hi high
        higher highest his hit hold holds hour hourly hours how how'd how's however hundred i i'd i'm idea identify
        if important in including initial inside instance instead interested into is it its itself january just keep
        kind know knows large larger last late lately later latest least length less let level levels like likely
        line lines list long longer longest look looked looking looks lot low lower lowest made main make many mark
        maximum may maybe me mean measure measured measurement measurements median metric metrics midnight minimum
        moment monday month monthly months more morning most mostly move moved moving much must my name names near
        need new next night no noon normal not nothing now number numbers observation observations observed occasion
        occasions occur occurred of off often ok okay old on once one ones only open opening or order other others
        our out over overall own part parts past per percent percentage period periods pick place please plot point
        points possible present previous probability profile provide quantity quarter quarters quick quickly quite
        range rank rate rather reach reached read reading really recent recently recorded regard regarding relative
        remarkable respect respective result return right row rows run same saturday saw say says see seem seen
        sense sensor series set several shape short show shown shows side sign signal simply since single six size
        slow slower slowest small smaller so some something sometime somewhat soon sort sorts span stand standard
        start started starts state statistics stats stay stayed steps still stop strength strong stronger strongest
        strongly such sum summary sunday sure table take tell ten than that the their them then there these they
        thing things this those thousand three through throughout thursday time times to today together tomorrow too
        took total toward towards trace track tuesday turn turned two typical typically under unit until up upon us
        use using usual usually value values variable variables versus very view vs want wanted was way we weak
        wednesday week weekday weekdays weekend weekends weekly weeks well went were what what's whatever whats when
        whenever where whether which while whole will wish with within without wonder wondering word would year
        yearly years yes yesterday yet you your
        """,
    )
)  # that mean nothing of their own here
_OPENING = r"(?:in|on|during|for|over|since|from|between|after|before|at|of|within|as of|throughout)\b"
_ABOVE = (
    r"exceed\w*|above|over|more than|greater than|higher than|larger than|at least|"
    r"reach\w*|pass(?:es|ed)?|top|surpass\w*|cross\w*|>|up to"
)
_BELOW = (
    r"below|under|less than|lower than|smaller than|fewer than|at most|"
    r"(?:fall|fell|drop|dropped|sink|sank|go|went|stay|stayed) (?:below|under)|<"
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
    if why := next((why for pattern, why in _REFUSED if re.search(pattern, text)), ""):
        return [Question(text=spoken, problem=why, series=series)]
    rest, threshold, above = _threshold(text, extent)
    rest, spans, ahead = read_spans(rest, extent)
    rest, unknown, others = _spelled(rest)
    if len(others) > 1 or not any(re.search(pattern, rest) for _, pattern in _PATTERNS):
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
    matching = [kind for kind, pattern in _PATTERNS if re.search(pattern, rest)]
    if found.threshold is not None:
        return ["exceed_ahead" if found.ahead or "exceed_ahead" in matching else "exceed"]
    if found.ahead is not None:
        return ["sure" if "sure" in matching else "forecast"]
    if len(found.spans) == 2 and not set(matching) & {"anomalies", "missing", "alike"}:
        return ["compare"]
    if not matching:
        return ["overview"] if found.spans or (found.series and len(rest.split()) == 1) else []
    if found.ranked:  # "which series has the highest mean": a mean
        matching = [kind for kind in matching if kind not in ("maximum", "minimum")] or matching
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
    r"\bwhich (series|channel|column|one|of|variable|sensor|line|metric)|\brank|\beach series\b|"
    r"\bwhich is the (most|least)"
)
_LOWEST = re.compile(r"\b(lowest|least|smallest|fewest|worst|slowest|quietest|minimum)\b")
_STRAY = re.compile(r"(?<![\w\u00a7.])\d[\d.,]*\b")
_SEVERAL = re.compile(
    r"\b(?:top|highest|lowest|largest|smallest|biggest) (\d+)\b|\b(\d+) (?:highest|lowest|largest|smallest|biggest)\b"
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
        if stem in _WORDS or stem in _SPELLABLE or _ASKING.search(stem) or len(stem) < 3 or stem.endswith("ly"):
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
_ASKING = re.compile("|".join(pattern for _, pattern in _PATTERNS))
_SPELLABLE = sorted(_WORDS | set(re.findall(r"[a-z]{5,}", " ".join(p for _, p in _PATTERNS))))


def what_can_be_asked(names: Sequence[str]) -> str:
    """One line of examples."""
    series = f" Series: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}." if len(names) > 1 else ""
    return "One can ask, for example: " + " ".join(f'"{KINDS[kind]}"' for kind in _EXAMPLES) + series


_EXAMPLES = ("overview", "maximum", "trend", "compare", "anomalies", "exceed", "forecast")
