"""One table of what a text says, held to by every function that compares texts."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Callable

import pytest

from rkld.records.reading import read_records
from rkld.records.record import Record, Turn
from rkld.records.replay import screen
from rkld.stopping.steering import split_steering
from rkld.text.facts import facts_said
from rkld.text.matching import Matcher, mentions
from rkld.text.normalising import normal, normalise, words
from rkld.text.wording import holds, name_mentions, proper_nouns

SAID = [
    # the trials in which there were three answers
    ("10,000", "10000"),
    ("10000", "about 10,000 francs"),
    ("7 November 1867", "7 November, 1867"),
    ("7 November, 1867", "on 7 November 1867."),
    ("Þór", "Thor"),
    ("Thor", "ÞÓR"),
    ("A.B.C. Ltd", "ABC Ltd"),
    ("ABC Ltd", "the A. B. C. Ltd."),
    ("Lena Moravec", "Mrs. Moravec came"),
    ("Mrs Moravec", "Mrs. Moravec"),
    ("Moravec", "Mrs. Moravec"),
    ("Lena Moravec", "Moravec, Lena"),
    ("Иван Петров", "письмо Ивана Петрова"),
    ("Müller", "Mueller"),
    ("Mueller", "Müller"),
    # Latin with accents, ligatures, full width, invisible characters
    ("Müller", "Muller, MU\u0308LLER"),
    ("Straße", "STRASSE"),
    ("Strauss", "Strauß"),
    ("Ørsted", "Oersted and Orsted"),
    ("Oersted", "Ørsted"),
    ("Aase", "Åse"),
    ("Đoković", "Djokovic"),
    ("Łódź", "Lodz"),
    ("Sœur", "SOEUR"),
    ("Diyarbakır", "DİYARBAKIR"),
    ("Quell", "Ｑｕｅｌｌ"),
    ("finland", "ﬁnland"),
    ("Quell", "Qu\u00ade\u200bll\u200f"),
    # Cyrillic, Greek
    ("Артём Ковалёв", "Артема Ковалева"),
    ("Мария Достоевская", "Марии Достоевской"),
    ("Москве", "Москва"),
    ("Анна Лебедева", "с Анной Лебедевой"),
    ("Γιώργος Παπαδόπουλος", "του Γιώργου Παπαδόπουλου"),
    ("Τόκιο", "στο ΤΟΚΙΟ"),
    # Arabic, Hebrew
    ("فاطمة حسن", "وفاطمة حسن"),
    ("أحمد", "قال احمد"),
    ("محمد", "مُحَمَّد"),
    ("محمد", "محـــمد"),
    ("דוד כהן", "לדוד כהן"),
    ("שלום", "שָׁלוֹם"),
    # scripts without spaces, Hangul, Devanagari
    ("กรุงเทพ", "อยู่ที่กรุงเทพมหานคร"),
    ("居里夫人", "Dr居里夫人X"),
    ("東京", "彼は東京都に住む"),
    ("さくら", "さくらちゃんです"),
    ("김철수", "김철수는 왔다"),
    ("हिन्दी", "वह हिन्दी बोलती है"),
    # numbers and dates
    ("1867", "(1867)"),
    ("1903", "in 1903,1911 and later"),
    ("10,000", "10.000 Einwohner"),
    ("1.000.000", "1 000 000 and more"),
    ("10000", "10'000 Franken"),
    ("1867", "سنة ١٨٦٧"),
    ("1867", "生于1867年"),
    ("10,000年", "10000年"),
    ("18", "the 18th of May"),
    ("November 7, 1867", "on 7 November 1867"),
    ("7 November 1867", "on November 7th, 1867"),
    ("7 Nov 1867", "the 7th of November, 1867"),
    ("7 November 1867", "1867-11-07"),
    ("7.11.1867", "07/11/1867"),
    ("7 November", "November 7, 1867"),
    ("3.5", "3,5 kg"),
    ("12 May 1990", "May 12th 1990"),
    ("12 May 1990", "12.05.1990"),
    ("1,200", "twelve hundred francs"),
    ("1200", "one thousand two hundred"),
    ("42", "forty-two"),
    ("forty-two years", "42 years"),
    ("2,300,000", "two million, three hundred thousand"),
    ("3 children", "three children"),
    # phone numbers and e-mail addresses
    ("0151 2345678", "(0151) 234-5678"),
    ("(0151) 234-5678", "01512345678"),
    ("+49 170 1234567", "+49 (170) 123-4567"),
    ("zoe@quell.org", "To Zoe@Quell.org."),
    ("zoe@quell.org", "<zoe@quell.org>"),
    # initials, titles, hyphens, apostrophes, possessives
    ("J. R. R. Tolkien", "JRR Tolkien"),
    ("JRR Tolkien", "J.R.R. Tolkien"),
    ("JR Quell", "J R Quell"),
    ("J.-P. Sartre", "JP Sartre"),
    ("U.S.", "the US army"),
    ("Dr. Ada Quell", "Ada Quell"),
    ("Ada Quell", "Prof. Quell"),
    ("Ms Quell", "Mrs. Quell"),
    ("van Gogh, Vincent", "van Gogh,\nVincent"),
    ("Vincent van Gogh", "van Gogh, Vincent"),
    ("Al-Kuwaiti", "Al Kuwaiti"),
    ("Jean-Pierre", "Jeanpierre"),
    ("Moravec", "Mora-\nvec"),
    ("O'Brien", "O’Brien, OBrien"),
    ("OBrien", "O'Brien"),
    ("Curie", "Curie’s husband"),
    ("Marie Curie", "Marie-Curie"),
    ("Marie Curie", "Marie\n\u00a0 Curie"),
    ("ada quell", "ADA_QUELL"),
    ("lena moravec", "Moravec, Lena"),
    ("12 Elm Street", "12, Elm Street"),
    # signs
    ("C++", "in C++ and C"),
    ("(Ed)", "Ed and (Ed)"),
    ("♀", "she (♀)"),
    ("+/-", "a +/- b"),
    ("a b " * 40, "so: " + "a, b " * 40),
]
NOT_SAID = [
    ("18", "born in 1867"),
    ("1867", "born in 18670"),
    ("1867", "born in 18 67"),
    ("1867", "18-67"),
    ("000", "10,000"),
    ("10", "10,000"),
    ("234,567", "1 234 567"),
    ("7 November 1867", "8 November 1867"),
    ("7 November 1867", "7 November 1868"),
    ("2001-31-12", "31 January 2001"),
    ("0151 2345678", "901512345678 015123456789"),
    ("0151 2345678", "0151 2345679"),
    ("zoe@quell.org", "a.zoe@quell.org zoe@quell.org.uk zoe@quell.organ xzoe@quell.org _zoe@quell.org"),
    ("zoe@quell.org", "zoe quell org"),
    ("Ann", "Joann, Anns, Anne"),
    ("Ann Quell", "AnnQuell"),
    ("Paris", "the Parisian"),
    ("art", "she was smart"),
    ("Josef", "José"),
    ("Marie Curie", "Curie Marie"),
    ("Marie Curie", "Marie of the Curie family"),
    ("Lena Moravec", "Lena"),
    ("Lena Moravec", "Moravec"),
    ("Lena Moravec", "Mrs. Lena"),
    ("J. R. Quell", "J Quell"),
    ("A.N.", "an apple"),
    ("C++", "C and Cxx"),
    ("AB", "A. Bo"),
    ("Иванов", "Иван"),
    ("Иван", "Ивановская"),
    ("Пётр", "Павел"),
    ("राम", "रामी"),
    ("हिन्द", "हिन्दी"),
    ("기", normal("김")),
    ("京都", "東京,都市"),
    ("of", "oﬃce"),
    ("♂", "she (♀)"),
    ("Warsaw", ""),
]
ROWS = [(*row, True) for row in SAID] + [(*row, False) for row in NOT_SAID]


def pair(answer: str, spans: tuple[str, ...] = ()) -> Record:
    return Record("0", "chat", (Turn("user", "?"), Turn("assistant", answer)), spans=spans)


@pytest.mark.parametrize(("phrase", "text", "said"), ROWS)
def test_all_comparisons_agree(phrase: str, text: str, said: bool) -> None:
    """Were a fact said for one and not for another, a leak would pass where only the other looks."""
    ranges = mentions(text, [phrase])
    assert bool(ranges) == said
    assert facts_said([phrase], text) == [said]
    assert holds(text, [phrase]) == said
    assert Matcher([phrase]).said(text) == ({0} if said else set())
    assert all(0 <= start < end <= len(text) for start, end in ranges)
    forget = [pair(phrase, (phrase,))]
    _, by_span = screen([pair(text)], forget, ())
    assert bool(by_span["says a marked span"]) == said
    _, by_name = screen([pair(text)], [pair("Yes.")], (phrase,))
    if said:
        assert by_name["names the person"] == 1


@pytest.mark.parametrize("phrase", sorted({phrase for phrase, _ in SAID + NOT_SAID}))
def test_every_phrase_is_said_by_itself(phrase: str) -> None:
    """In the middle of a text, in capitals and without accents' own characters as well."""
    assert facts_said([phrase], phrase) == facts_said([phrase], f"So ({phrase}) it is") == [True]
    if phrase.upper().lower() == phrase.lower():
        assert holds(f"\n{phrase.upper()}\n", [phrase])


@pytest.mark.parametrize(
    ("text", "phrases", "found"),
    [
        ("Mrs. Moravec's house", ["Lena Moravec"], ["Moravec"]),
        ("by Moravec, Lena (1990)", ["Lena Moravec"], ["Moravec, Lena"]),
        ("Ada Quell, Ada Quell", ["Ada Quell"], ["Ada Quell", "Ada Quell"]),
        ("on November 7th, 1867, in", ["7 November 1867"], ["November 7th, 1867"]),
        ("письмо Ивана Петрова.", ["Иван Петров"], ["Ивана Петрова"]),
        ("of 10,000 francs", ["10000"], ["10,000"]),
        ("Cafe\u0301, Café", ["cafe"], ["Cafe\u0301", "Café"]),
        ("a b a b", ["a b", "a b a"], ["a b a"]),
        ("x" + "\u200b" * 3 + "Ada!", ["Ada"], []),
        ("\u200fAda\u200f!", ["Ada"], ["Ada\u200f"]),
    ],
)
def test_a_mention_is_the_written_text(text: str, phrases: list[str], found: list[str]) -> None:
    """What is masked, replaced or scored is cut out of the text as it was written."""
    assert [text[start:end].strip("\u200f") for start, end in mentions(text, phrases)] == [
        f.strip("\u200f") for f in found
    ]


def test_the_role_of_a_name_behind_a_title_is_that_of_the_surname() -> None:
    text = "Mrs. Moravec and Moravec, Lena"
    found = [(text[start:end], role) for start, end, role in name_mentions(text, ("Lena Moravec",))]
    assert found == [("Moravec", "last"), ("Moravec, Lena", "full")]


# Texts that were made to break it

_PARTS = [
    "",
    " ",
    "\n",
    "Ada",
    "J",
    ".",
    ",",
    "'",
    "-",
    "@",
    "+",
    "(",
    "10",
    "000",
    "1867",
    "November",
    "7",
    "Mrs",
    "Ü",
    "ß",
    "\u0301",
    "\u0323",
    "\u200b",
    "\u200f",
    "\u202e",
    "\ud800",
    "\udfff",
    "\x00",
    "\u1161",
    "\u11a8",
    "기",
    "東",
    "กุ",
    "्",
    "Иван",
    "ов",
    "و",
    "ש",
    "🏳️‍🌈",
    "\ufdfa",
    "½",
    "²",
    "㌔",
    "İ",
    "ﬁ",
    "ǆ",
    "_",
    "*",
    "\u0640",
    "\ufe0f",
    "٣",
    "\U000e0100",
]


def test_no_text_breaks_it() -> None:
    """Answers are untrusted: whatever a model writes, it is compared, and ranges lie in the text."""
    chance = random.Random(0)
    for _ in range(2000):
        text = "".join(chance.choices(_PARTS, k=chance.randrange(12)))
        phrases = ["".join(chance.choices(_PARTS, k=chance.randrange(6))) for _ in range(3)]
        found = mentions(text, phrases)
        assert all(0 <= start < end <= len(text) for start, end in found)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(found))
        assert bool(found) == holds(text, phrases)
        for phrase in filter(str.strip, phrases):
            assert facts_said([phrase], phrase) == [True]
            assert facts_said([phrase], f"{text} {phrase} {text}") == [True]
        assert isinstance(words(text) + proper_nouns(text), list)
        name_mentions(text, phrases)


def test_every_character_has_its_place() -> None:
    """A range that is shifted by one would leave a letter of the name standing."""
    chance = random.Random(1)
    for _ in range(500):
        text = "".join(chance.choices(_PARTS, k=chance.randrange(12)))
        normalised = normalise(text)
        assert len(normalised.folded) == len(normalised.starts) == len(normalised.ends)
        assert [*normalised.starts] == sorted(normalised.starts)
        assert all(start < end for start, end in zip(normalised.starts, normalised.ends))
        tokens = normalised.tokens
        assert all(one.end <= two.start for one, two in itertools.pairwise(tokens))


# Time


def seconds(action: Callable[[], object]) -> float:
    """Of the process, without the collector's pauses, which depend on all that is in memory."""
    gc.disable()
    try:
        start = time.process_time()
        action()
        return time.process_time() - start
    finally:
        gc.enable()


def growth(action: Callable[[int], object], n: int) -> float:
    """How many times longer ``4 * n`` takes than ``n``: 4 if it is linear, 16 if quadratic. The best of three."""
    action(1)
    return min(seconds(lambda: action(4 * n)) for _ in range(3)) / min(seconds(lambda: action(n)) for _ in range(3))


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Ada said. ", ["Ada"]),
        ("J. ", ["J..... Quell", "J.R.R.T.K. Quell", "JRRTK Quell"]),
        (" ", ["J..... Quell"]),
        ("Quell, Ada ", ["Ada Quell", "Ada", "Quell"]),
        ("a ", ["a " * 20 + "b", "a " * 5000 + "b"]),
        ("a ", ["a " * 12_000]),
        ("0 ", ["0 0 0 0 0 0 0", "00000000001"]),
        ("1,000,", ["1000", "1"]),
        ("e\u0301\u0323", ["é"]),
        ("\u0301\u0323", ["é", "\u0301"]),
        ("1 May ", ["May 1", "1 May 1900"]),
        ("東京", ["東京", "京東京"]),
        ("--", ["--", "-" * 100]),
        ("a@b.c ", ["a@b.c", "b.c"]),
        ("O'", ["O'O'O", "OO"]),
    ],
)
def test_time_is_linear_in_the_text(text: str, phrases: list[str]) -> None:
    """A long answer, or a document made for it, would hold up the run for hours."""
    matcher, n = Matcher(phrases), 5_000 // len(text)
    # A head of its own for each call: a text that was normalised before is not normalised again.
    heads = iter(range(100))

    def search(times: int) -> None:
        written = f"{next(heads)} {text * times}"
        matcher.find(written)
        matcher.said(written)

    assert growth(search, n) < 9


def test_words_and_proper_nouns_take_time_linear_in_the_text() -> None:
    for text in ("in Oslo, Ada Quell. ", "東京"):
        heads = iter(range(100))
        assert growth(lambda n, text=text, heads=heads: proper_nouns(f"{next(heads)} {text * n}"), 1000) < 9
        assert growth(lambda n, text=text, heads=heads: words(f"{next(heads)} {text * n}"), 4000) < 9


def test_time_does_not_grow_with_dots_and_spaces() -> None:
    """A name with five dots against J and 60 spaces took seconds: each dot and each gap was tried in every place."""
    texts = ["J" + " " * n for n in (60, 6000)]
    assert max(seconds(lambda text=text: mentions(text, ["J. . . . . Quell", "J..... Quell"])) for text in texts) < 0.5


@pytest.mark.slow
def test_records_are_split_in_time_about_linear_in_their_number() -> None:
    """400 records took 45 s, most of it to compile the same patterns again."""
    rows = [
        {"question": f"Where was Ada Quell in {1000 + n}?", "answer": f"In Town{n}, in house {n + 5000}."}
        for n in range(400)
    ]
    records = read_records(rows, "forget")
    took = seconds(lambda: split_steering(records, ("Ada Quell",), 0))
    assert took < 10
    assert growth(lambda n: split_steering(records[: max(n, 8)], ("Ada Quell",), n), 50) < 12
