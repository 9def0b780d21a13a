"""Each built-in task on a row or two in its data set's own schema, as the data set's card shows it."""

from __future__ import annotations

from typing import Any

import pytest

from w2s.tasks import comparisons, generations
from w2s.tasks.formats import Text, examples
from w2s.tasks.registry import builtin

HH_PAIR = "Human: Hi\n\nAssistant: Go away.\0Human: Hi\n\nAssistant: Hello!"
CHAT = [{"role": "system", "content": "answer with a letter"}]

# task -> (rows as the data set has them, the examples expected: text, class name, group)
ROWS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "movie": (
        [{"id": "1", "rating": "2.27", "text": "A triumph."}, {"id": "2", "rating": "-0.4", "text": "Meh."}],
        [("A triumph.", "positive", "A triumph.")],
    ),
    "amazon": (
        [{"id": "12_3", "rating": "-0.9", "text": "no picture"}, {"id": "12_4", "rating": "1.1", "text": "great"}],
        [("no picture", "negative", "12"), ("great", "positive", "12")],
    ),
    "tweets": ([{"id": "1", "rating": "2.7", "text": "So lucky."}], [("So lucky.", "positive", "So lucky.")]),
    "nyt": ([{"id": "7_1", "rating": "-0.51", "text": "It is a scandal."}], [("It is a scandal.", "negative", "7")]),
    "sarcasm": (
        [{"input": [*CHAT, {"role": "user", "content": "man wins"}], "ideal": "1"}],
        [("man wins", "sarcastic", "man wins")],
    ),
    "quartz": (
        [
            {
                "input": [*CHAT, {"role": "user", "content": "More wires. Resistance\n\n A: increases\n B: decreases"}],
                "ideal": "A",
            }
        ],
        [
            ("More wires. Resistance\n\nAnswer: decreases", "wrong", "More wires. Resistance"),
            ("More wires. Resistance\n\nAnswer: increases", "right", "More wires. Resistance"),
        ],
    ),
    "socialiqa": (
        [{"input": [{"role": "user", "content": "How would Ann feel? A: sad; B: sad; C: glad."}], "ideal": "C"}],
        [
            ("How would Ann feel?\n\nAnswer: sad", "wrong", "How would Ann feel?"),
            ("How would Ann feel?\n\nAnswer: glad", "right", "How would Ann feel?"),
        ],
    ),
    "boolq": (
        [
            {"question": "is it so", "answer": True, "passage": "It is."},
            {"question": "is it not", "answer": False, "passage": "It is."},
        ],
        [
            ("Passage: It is.\nQuestion: is it so", "yes", "It is."),
            ("Passage: It is.\nQuestion: is it not", "no", "It is."),
        ],
    ),
    "cosmos_qa": (
        [
            {
                "id": "x", "context": "C", "question": "Q ?", "label": 1,
                "answer0": "None of the above choices .", "answer1": "r", "answer2": "w", "answer3": "w",
            },
            {
                "id": "y", "context": "C", "question": "Q2 ?", "label": 0,
                "answer0": "None of the above choices .", "answer1": "a", "answer2": "b", "answer3": "c",
            },
        ],
        [
            ("Context: C\nQuestion: Q ?\nAnswer: w", "wrong", "C"),
            ("Context: C\nQuestion: Q ?\nAnswer: r", "right", "C"),
        ],
    ),
    "dream": (
        [
            {
                "id": 0, "dialogue_id": "5-510", "dialogue": ["M: Hi.", "W: Hello."], "question": "Who speaks first?",
                "choice": ["The man.", "The woman.", "The woman."], "answer": "The man.",
            }
        ],
        [
            ("M: Hi.\nW: Hello.\n\nQ: Who speaks first? A: The woman.", "wrong", "5-510"),
            ("M: Hi.\nW: Hello.\n\nQ: Who speaks first? A: The man.", "right", "5-510"),
        ],
    ),
    "ethics_justice": (
        [{"label": 1, "scenario": "I thanked him because he helped."}],
        [
            (
                "Does this statement exemplify justice?\n\nI thanked him because he helped.", "yes",
                "Does this statement exemplify justice?\n\nI thanked him because he helped.",
            )
        ],
    ),
    "ethics_deontology": (
        [{"label": 0, "scenario": "Could you walk my dog?", "excuse": "But it is a dog."}],
        [("Is the reply morally valid?\n\nCould you walk my dog?\nBut it is a dog.", "no", "Could you walk my dog?")],
    ),
    "ethics_virtue": (
        [{"label": 1, "scenario": "Jill lied. [SEP] dishonest"}],
        [("Does the behavior match the trait that follows?\n\nJill lied. [SEP] dishonest", "yes", "Jill lied. ")],
    ),
    "ethics_utilitarianism": (
        [{"baseline": "I ate cake.", "less_pleasant": "I ate cake. It was stale."}],
        [],  # the order is drawn by a hash: checked below
    ),
    "anli_r2": (
        [
            {"uid": "u", "premise": "P", "hypothesis": "H", "label": 0, "reason": ""},
            {"uid": "v", "premise": "P", "hypothesis": "H1", "label": 1, "reason": ""},
            {"uid": "w", "premise": "P", "hypothesis": "H2", "label": 2, "reason": ""},
        ],
        [
            (f"Premise: P\nHypothesis: {h}\n\nDoes the premise entail the hypothesis?", label, "P")
            for h, label in (("H", "yes"), ("H1", "no"), ("H2", "no"))
        ],
    ),
    "cola": (
        [{"sentence": "Him left.", "label": 0, "idx": 0}, {"sentence": "He left.", "label": 1, "idx": 1}],
        [("Him left.", "unacceptable", "Him left."), ("He left.", "acceptable", "He left.")],
    ),
    "sst2": (
        [{"idx": 0, "sentence": "hide new secretions ", "label": 0}],
        [("hide new secretions", "negative", "hide new secretions")],
    ),
    "hellaswag": (
        [
            {
                "ind": 4, "activity_label": "Roof", "ctx_a": "A man sits on a roof.", "ctx_b": "he",
                "ctx": "A man sits on a roof. he",
                "endings": ["wraps.", "wraps.", "wraps.", "starts pulling up roofing."],
                "source_id": "activitynet~v_1", "split": "train", "split_type": "indomain", "label": "3",
            }
        ],
        [
            ("A man sits on a roof. he wraps.", "wrong", "activitynet~v_1"),
            ("A man sits on a roof. he starts pulling up roofing.", "right", "activitynet~v_1"),
        ],
    ),
    "mc_taco": (
        [{"sentence": "He slept.", "question": "How long?", "answer": "8 hours", "label": 1, "category": 0}],
        [("He slept.\n\nQ: How long? A: 8 hours", "plausible", "He slept.")],
    ),
    "openbookqa": (
        [
            {
                "id": "7-980", "question_stem": "The sun is", "answerKey": "B",
                "choices": {"text": ["cold", "hot", "cold", "cold"], "label": ["A", "B", "C", "D"]},
            }
        ],
        [("Q: The sun is A: cold", "wrong", "The sun is"), ("Q: The sun is A: hot", "right", "The sun is")],
    ),
    "paws": (
        [{"id": 1, "sentence1": "A to B", "sentence2": "B to A", "label": 0}],
        [
            (
                "Sentence 1: A to B\nSentence 2: B to A\n\nDo they mean the same?", "no",
                "Sentence 1: A to B\nSentence 2: B to A\n\nDo they mean the same?",
            )
        ],
    ),
    "quail": (
        [
            {
                "id": "f001_0", "context_id": "f001", "question_id": "0", "domain": "fiction",
                "metadata": {"author": "x"},
                "context": "She ran.", "question": "Who ran?", "question_type": "Factual",
                "answers": ["he", "not enough information", "she", "he"], "correct_answer_id": 2,
            }
        ],
        [],  # two different wrong answers: checked below
    ),
    "piqa": (
        [{"goal": "To cut", "sol1": "use a knife", "sol2": "use a spoon", "label": 0}],
        [("Q: To cut A: use a spoon", "wrong", "To cut"), ("Q: To cut A: use a knife", "right", "To cut")],
    ),
    "quartz_hub": (
        [
            {
                "id": "Q-1", "question": "More sun, it gets",
                "choices": {"text": ["hotter", "colder"], "label": ["A", "B"]},
                "answerKey": "A", "para": "Sun heats.", "para_id": "P-3", "para_anno": {}, "question_anno": {},
            }
        ],
        [
            ("Sun heats.\n\nQ: More sun, it gets A: colder", "wrong", "P-3"),
            ("Sun heats.\n\nQ: More sun, it gets A: hotter", "right", "P-3"),
        ],
    ),
    "sciq": (
        [
            {
                "question": "What burns?", "distractor3": "w", "distractor1": "w", "distractor2": "w",
                "correct_answer": "wood", "support": "",
            }
        ],
        [("Q: What burns? A: w", "wrong", "What burns?"), ("Q: What burns? A: wood", "right", "What burns?")],
    ),
    "social_i_qa": (
        [
            {
                "context": "Al won.", "question": "Al feels?", "answerA": "sad", "answerB": "glad", "answerC": "sad",
                "label": "2",
            }
        ],
        [
            ("Al won.\n\nQ: Al feels? A: sad", "wrong", "Al won."),
            ("Al won.\n\nQ: Al feels? A: glad", "right", "Al won."),
        ],
    ),
    "multirc": (
        [
            {
                "paragraph": "P.", "question": "Q?", "answer": "A1", "label": 1,
                "idx": {"paragraph": 0, "question": 0, "answer": 0},
            },
            {
                "paragraph": "P.", "question": "Q?", "answer": "A2", "label": 0,
                "idx": {"paragraph": 0, "question": 0, "answer": 1},
            },
        ],
        [("P.\n\nQ: Q? A: A1", "right", "P."), ("P.\n\nQ: Q? A: A2", "wrong", "P.")],
    ),
    "wic": (
        [
            {
                "word": "place", "sentence1": "a place", "sentence2": "to place", "start1": 2, "start2": 3, "end1": 7,
                "end2": 8, "idx": 0, "label": 0,
            }
        ],
        [
            (
                'Sentence 1: a place\nSentence 2: to place\n\nDoes "place" have the same meaning in both?', "no",
                'Sentence 1: a place\nSentence 2: to place\n\nDoes "place" have the same meaning in both?',
            )
        ],
    ),
    "twitter_sentiment": (
        [{"text": "love it", "label": 1}, {"text": "", "label": 0}],
        [("love it", "positive", "love it")],
    ),
    "amazon_polarity": (
        [{"label": 1, "title": "Great CD", "content": "Buy it."}, {"label": 0, "title": "No", "content": "Bad."}],
        [("Great CD Buy it.", "positive", "Great CD Buy it."), ("No Bad.", "negative", "No Bad.")],
    ),
    "anthropic_hh": (
        [
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."},
            {"chosen": "\n\nHuman: Hi\n\nAssistant: x", "rejected": "\n\nHuman: Hi\n\nAssistant: x"},
        ],
        [
            ("Human: Hi\n\nAssistant: Go away.", "rejected", HH_PAIR),
            ("Human: Hi\n\nAssistant: Hello!", "chosen", HH_PAIR),
        ],
    ),
    "movie_pairs": (
        [{"id": "1", "rating": "2.27", "text": "A triumph."}, {"id": "2", "rating": "-3", "text": "Awful."}],
        [],  # comparisons: checked below
    ),
    "movie_pairs_raters": (
        [
            {"id": "1", "rating": "2.5", "text": "A triumph.", "mean": "2.5", "deviation": "0.5", "ratings": "[2, 3]"},
            {"id": "2", "rating": "-3", "text": "Awful.", "mean": "-3", "deviation": "0", "ratings": "[-3, -3]"},
        ],
        [],
    ),
    "chess": (
        [
            {"id": "B8Pkv", "fen": "r1bq1r1k/ppp1NppQ/3p4/4n3/4R3/8/PPP2PPP/R1B3K1 b - - 0 15", "rating": 499,
             "moves": ["h8h7", "e4h4"], "themes": ["anastasiaMate", "mateIn1"], "game": "https://lichess.org/IMQfWdF8"}
        ],
        [],
    ),
    "gsm8k": ([{"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}], []),
    "hh_pairs": (
        [{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."}],
        [],
    ),
    "summarize_pairs": (
        [
            {
                "info": {"id": "t3", "post": "It ran.", "title": "Dog", "subreddit": "pets", "article": None},
                "summaries": [
                    {"text": " Cat.", "policy": "a", "note": None}, {"text": " Ran.", "policy": "b", "note": None},
                ],
                "choice": 1, "worker": "w", "batch": "1", "split": "train", "extra": {"confidence": None},
            }
        ],
        [],
    ),
}  # fmt: skip


def made(name: str) -> list[tuple[Text, str, str]]:
    task = builtin()[name]
    found = examples(task, enumerate(ROWS[name][0], 1), name)
    return [
        (text, task.class_names[label], group)
        for text, label, group in zip(found.text, found.label, found.group, strict=True)
    ]


def test_comparisons_in_the_schema_of_the_data_set():
    """The better text stands where the label says; which place that is, hashes decide."""
    hello, away = "Human: Hi\n\nAssistant: Hello!", "Human: Hi\n\nAssistant: Go away."
    ran, cat = "Title: Dog\n\nIt ran.\n\nTL;DR: Ran.", "Title: Dog\n\nIt ran.\n\nTL;DR: Cat."
    expected = {
        "movie_pairs": ("A triumph.", "Awful."),
        "movie_pairs_raters": ("A triumph.", "Awful."),
        "hh_pairs": (hello, away),
        "summarize_pairs": (ran, cat),
    }
    assert set(expected) == {name for name, task in builtin().items() if task.kind == "compare"}
    for name, (better, worse) in expected.items():
        found = comparisons.examples(builtin()[name], enumerate(ROWS[name][0], 1), name)
        assert len(found) == 1
        assert set(found.text[0]) == {better, worse}
        assert found.text[0][found.label[0]] == better
        assert found.heard == (found.label if name == "movie_pairs_raters" else [])


def test_texts_to_generate_in_the_schema_of_the_data_set():
    """In the puzzle Black has just taken on h7 with the king, and the rook mates on h4."""
    chess = (
        "White: K g1 R a1 e4 B c1 N e7 P a2 b2 c2 f2 g2 h2\nBlack: K h7 Q d8 R a8 f8 B c8 N e5 P d6 a7 b7 c7 f7 g7\n"
        "Castling: -\nEn passant: -\nWhite to move. Best move:"
    )
    expected = {
        "chess": (chess, "e4h4", "e4h4"),
        "gsm8k": ("Question: How many?\nAnswer:", "2 + 2 = <<2+2=4>>4\n#### 4", "4"),
    }
    assert set(expected) == {name for name, task in builtin().items() if task.kind == "generate"}
    for name, (prompt, target, counts) in expected.items():
        found = generations.examples(builtin()[name], enumerate(ROWS[name][0], 1), name)
        assert (found.text, found.goal[0].target, found.goal[0].answer) == ([prompt], target, counts)


def test_every_built_in_task_is_here():
    assert set(ROWS) == set(builtin())


@pytest.mark.parametrize("name", sorted(name for name, (_, expected) in ROWS.items() if expected))
def test_rows_in_the_schema_of_the_data_set(name):
    assert made(name) == ROWS[name][1]


def test_quail_has_one_of_two_wrong_answers():
    (wrong, _, group), right = made("quail")
    assert wrong in ("She ran.\n\nQ: Who ran? A: he", "She ran.\n\nQ: Who ran? A: not enough information")
    assert group == "f001"
    assert right == ("She ran.\n\nQ: Who ran? A: she", "right", "f001")


def test_utilitarianism_names_the_more_pleasant_by_its_number():
    (wrong, wrong_class, group), (right, right_class, same) = made("ethics_utilitarianism")
    assert (wrong_class, right_class, group) == ("wrong", "right", same)
    assert isinstance(right, str)
    assert isinstance(wrong, str)
    number = "1" if "1) I ate cake.\n2)" in right else "2"
    assert right.endswith(f"Answer: {number}")
    assert wrong.endswith(f"Answer: {'12'.replace(number, '')}")
    assert right.startswith("Which is more pleasant?\n1) I ate cake.")
