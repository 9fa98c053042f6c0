"""Small tables in several spellings, and what befalls files: bytes flipped, lines and cells swapped, ends cut off."""

from __future__ import annotations

import random
from collections.abc import Iterator

_DAYS = [f"2023-01-{day:02}" for day in range(1, 21)]
_MARKS = (
    b'"',
    b",",
    b";",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b"-",
    b"|",
    b"'",
    b"inf",
    b"NaN",
    b"1e400",
    b"2023",
    b"\xff\xfe",
)


def tables() -> list[bytes]:
    """Sound files of twenty rows or so."""
    texts = (
        "unique_id,ds,y\n" + "".join(f"{s},{day},{i * 1.5}\n" for s in "ab" for i, day in enumerate(_DAYS)),
        "Datum;Umsatz\n" + "".join(f"{day[8:]}.01.2023;{i}.{i:03},5\n" for i, day in enumerate(_DAYS)),
        "date\tload\tnote\n" + "".join(f'{day} 10:00:00+01:00\t{i}\t"a, ""b"" {i}"\n' for i, day in enumerate(_DAYS)),
        "month|value\r\n" + "".join(f"{201201 + i % 12 + 100 * (i // 12)}|{i}\r\n" for i in range(20)),
        "# made by a tool\n\nts,v,w\n" + "".join(f"{1420070400 + 3600 * i},{i},NA\n" for i in range(20)),
        "y\n" + "".join(f"{i}\n" for i in range(20)),
        "d,y\n" + "".join(f"{m}-10,{i}\n" for i, m in enumerate(("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul"))),
        "q,y\n" + "".join(f"{2000 + i // 4}Q{i % 4 + 1},{i}\n" for i in range(20)),
    )
    return [text.encode() for text in texts]


def mutated(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` files, each a sound one with one to four faults; the same for the same seed."""
    sound = tables()
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        content = sound[number % len(sound)]
        for _ in range(draw.randint(1, 4)):
            content = _spoilt(content, draw)
        yield content


def _spoilt(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return content
    at, kind = draw.randrange(len(content)), draw.randrange(6)
    if kind == 0:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + content[at + draw.randint(1, 8) :]
    if kind == 2:
        return content[:at]
    if kind == 3:
        return content[:at] + draw.choice(_MARKS) + content[at:]
    lines = content.split(b"\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    if kind == 4:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        mark = draw.choice((b",", b";", b"\t", b"|"))
        cells = lines[one].split(mark)
        draw.shuffle(cells)
        lines[one] = mark.join(cells)
    return b"\n".join(lines)
