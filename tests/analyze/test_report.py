"""What stands in a report: everything once, nothing that could be taken for markup, and what is left out said."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from reports import COMMIT, HOSTILE, PICTURES, contents, enrich, made_page, read, records  # type: ignore[import-not-found]

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.stats import absent
from w2s.analyze.reading import merge
from w2s.analyze.reading.rows import load
from w2s.analyze.reading.selection import Taken, variant
from w2s.analyze.report import page
from w2s.analyze.report.examples import drawn_order
from w2s.analyze.report.history import curves
from w2s.analyze.report.packing import number, packed, script_json
from w2s.analyze.report.pictures import shortened
from w2s.analyze.report.runs import gather
from w2s.analyze.report.summary import findings
from w2s.analyze.tables.document import compose
from w2s.errors import StepError
from w2s.store import Store

pytestmark = pytest.mark.usefixtures("few_resamples")

MODELS = ["pythia-70m", "pythia-160m", "pythia-410m"]


def test_data_in_a_script_element_cannot_end_it():
    text = script_json({"text": HOSTILE})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"text": HOSTILE}
    assert not set("<>&") & set(packed({"text": HOSTILE}))


def test_packs_hold_what_went_in_and_are_the_same_each_time():
    data = {"a": [1, None, HOSTILE]}
    assert json.loads(gzip.decompress(base64.b64decode(packed(data)))) == data
    assert packed(data) == packed(data)
    with pytest.raises(ValueError, match="not JSON compliant"):
        packed([float("nan")])
    assert [number(float("nan")), number(2.0), number(0.123456789)] == [None, 2, 0.123457]


def test_the_same_store_gives_the_same_page_and_another_another(synthetic):
    first, second = (enrich(synthetic(folder=name).fill(reverse=name == "b")) for name in "ab")
    pages = [made_page(made) for made in (first, second)]
    unpacked = [json.dumps({k: str(v) for k, v in contents(html).items()}) for html in pages]
    assert unpacked[0].replace(str(first.root), "ROOT") == unpacked[1].replace(str(second.root), "ROOT")
    assert made_page(first) == pages[0]
    assert pages[0] != made_page(enrich(synthetic(folder="c", accuracy=lambda node: 0.7).fill()))


def test_the_policy_names_the_only_style_and_script_by_their_hashes(synthetic):
    html = made_page(enrich(synthetic().fill()))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() in policy
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert re.findall(r"<[^>]*\s(?:on\w+|style)=", markup) == []
    # The icon and nothing else comes from an address, and that one is empty.
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', markup) == ["data:,"]
    assert "innerHTML" not in html


def test_nothing_hostile_stands_in_the_page_as_markup(synthetic):
    made = enrich(synthetic(question=HOSTILE).fill(), text=HOSTILE)
    html = made_page(made)
    assert not [tag for tag in re.findall(r"<[^>]+>", html) if "alert" in tag or "onerror" in tag]
    assert "<script>alert" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_each_manifest_and_history_is_read_once_and_each_file_of_predictions_at_most(synthetic, monkeypatch):
    made = enrich(synthetic().fill())
    rows = load("one", made.root)
    reads: Counter[str] = Counter()
    tables: Counter[tuple[str, str]] = Counter()
    real_manifest, real_text, real_table = Store.manifest, Path.read_text, Store.read_table

    def manifest(self, kind, digest):
        reads[digest] += 1
        return real_manifest(self, kind, digest)

    def text(self, *given, **named):
        reads[str(self)] += self.name == "history.jsonl"
        return real_text(self, *given, **named)

    def table(self, kind, digest, name, columns=None):
        tables[digest, name] += 1
        return real_table(self, kind, digest, name, columns)

    monkeypatch.setattr(Store, "manifest", manifest)
    monkeypatch.setattr(Store, "has", lambda self, kind, digest: True)
    monkeypatch.setattr(Path, "read_text", text)
    monkeypatch.setattr(Store, "read_table", table)
    told = []
    runs = gather(rows, lambda what, done, total: told.append((what, done, total)))
    trained = [digest for digest, node in made.plan.nodes.items() if node.kind == "train"]
    assert {digest: reads[digest] for digest in runs.order} == dict.fromkeys(runs.order, 1)
    assert sum(count for name, count in reads.items() if name.endswith("history.jsonl")) == len(trained)
    assert set(tables.values()) == {1}
    looked_at = [d for d, own in zip(runs.order, runs.facts, strict=True) if own.role in ("weak", "student", "data")]
    assert sorted(digest for digest, _ in tables) == sorted(looked_at)
    assert ("reading runs", 0, len(runs.order)) in told
    assert ("choosing examples", 5, 6) in told


def test_examples_are_disagreements_in_an_order_that_the_data_alone_decide(synthetic):
    made = enrich(synthetic().fill(), text="about {i}")
    rows = load("one", made.root)
    html = made_page(made)
    packs, shown = contents(html), [record for record in records(html) if "disagreements" in record]
    assert len(shown) == 6
    (data,) = rows.truth
    truth = rows.truth[data]
    order = [truth.ids[place] for place in drawn_order(truth)]
    assert order != sorted(order)
    (texts,) = [pack for name, pack in packs.items() if name.startswith("texts-")]
    assert len(set(texts["texts"])) == len(texts["texts"])
    for record in shown:
        student = rows.test[Taken(record["digest"])].predicted_N
        (supervisor,) = set(rows.frame.loc[rows.frame["student_digest"] == record["digest"], "weak_digest"])
        weak = rows.test[Taken(supervisor)].predicted_N
        own = record["disagreements"]
        assert own["of"] == int((student != weak).sum())
        assert len(own["shown"]) == min(20, own["of"])
        places = [truth.ids.index(texts["texts"][example[0]].removeprefix("about ")) for example in own["shown"]]
        differ = [example for example in order if (student != weak)[truth.ids.index(example)]]
        assert [truth.ids[place] for place in places] == differ[:20]
        for place, (_, y, student_class, student_p, weak_class, weak_p) in zip(places, own["shown"], strict=True):
            assert (y, student_class, weak_class) == (truth.y_N[place], student[place], weak[place])
            assert student_class != weak_class
            assert min(student_p, weak_p) >= 50


def test_histories_are_averaged_evenly_and_keep_their_end(tmp_path):
    lines: list[dict[str, object]] = [{"step": i, "loss": float(i)} for i in range(1000)]
    lines += [{"steps_done": i, "split": "val", "against": "supervisor", "accuracy": i / 2000} for i in range(1, 1001)]
    file = tmp_path / "history.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    loss, evaluated = curves(file, 10)
    assert loss["y"] == [49.5, *(pytest.approx(49.5 + 100 * i, rel=0.005) for i in range(1, 10))]
    assert loss["x"] == [100 * (i + 1) for i in range(10)]
    assert loss["averaged"] == 100
    assert (evaluated["name"], len(evaluated["x"]), evaluated["x"][-1]) == ("val, against supervisor", 10, 1000)
    whole, _ = curves(file, 1000)
    assert whole["y"] == [float(i) for i in range(1000)]  # three digits do
    assert "averaged" not in whole
    file.write_text('{"step": 0, "lo')
    with pytest.raises(StepError, match=r"history\.jsonl: damaged"):
        curves(file, 10)


def test_what_would_be_too_much_is_left_out_and_said(synthetic):
    def noise(example):  # does not compress
        return "".join(hashlib.sha256(f"{example} {i}".encode()).hexdigest() for i in range(30))

    rows, cells, document = read(enrich(synthetic(seeds=[0]).fill(), text=noise))
    limit = 10_000_000
    pages = []
    while True:
        pages.append(page(rows, cells, document, PICTURES, limit_bytes=limit))
        size = len(pages[-1].encode())
        assert size <= limit or "2 of 2 figures" in pages[-1]
        if size > limit:
            break
        limit = size - 1000
    said = [re.findall(r"Left out here,</b> to keep this page small: (.*?)\.</p>", html) for html in pages]
    assert said[0] == []
    begins = [line[0].split(" (")[0] if line else "" for line in said]
    assert [begin[:8] for begin in begins][:4] == ["", "the end ", "the end ", "examples"]
    assert "examples beyond 6 for each student" in pages[2]
    whole, short, none = (contents(html) for html in (pages[0], pages[1], pages[3]))
    lengths = [
        {len(text) for n, pack in p.items() if n.startswith("texts-") for text in pack["texts"]} for p in (whole, short)
    ]
    assert lengths == [{1000}, {240}]
    assert not [name for name in none if name.startswith("texts-")]
    last = pages[-1]
    for word in ("examples on which", "the course of the trainings", "2 of 2 figures"):
        assert word in last
    assert not [record for record in records(last) if "history" in record or "disagreements" in record]
    assert len(records(last)) == len(records(pages[0]))  # runs themselves are never left out


def test_what_figures_share_is_kept_once_and_can_be_put_back():
    letter, own = "M 1 2 " + "L 3 4 " * 10, ["M 9 9 " + f"L {i} 4 " * 10 for i in range(2)]
    svgs = {f"f{i}": f'<svg><path d="{letter}"/><path d="{own[i]}"/><path d="M 0 0"/></svg>'.encode() for i in range(2)}
    texts, shapes = shortened(svgs)
    assert shapes == [letter]
    assert texts["f0"] == f'<svg><path d="{{0}}"/><path d="{own[0]}"/><path d="M 0 0"/></svg>'
    back = {name: re.sub(r'd="\{(\d+)\}"', lambda m: f'd="{shapes[int(m[1])]}"', text) for name, text in texts.items()}
    assert {name: text.encode() for name, text in back.items()} == svgs


def test_runs_of_other_commits_and_with_changes_are_pointed_out(synthetic):
    def manifest(node):
        if "ceiling" in node.title:
            return {"git": {"commit": "dead" * 10, "dirty": True}}
        return {"git": None} if "logconf" in node.title else {}

    html = made_page(enrich(synthetic(folder="a").fill(), manifest=manifest))
    assert "The runs do not all come from the same code" in html
    assert "3 runs were made by a checkout with changes" in html
    assert "3 runs were made by code that was installed without its repository" in html
    clean = made_page(enrich(synthetic(folder="b").fill()))
    assert "<b>Code.</b>" not in clean
    assert f"check out commit <code>{COMMIT}</code>" in clean


def test_the_summary_has_a_line_for_each_pair_while_they_are_few(synthetic, chosen):
    one = aggregate(load("one", synthetic(folder="a").fill().root))
    assert [(line.who, line.basis) for line in findings(one, "accuracy")] == [
        ("xent", "200 test examples, 3 seeds"),
        ("logconf", "200 test examples, 3 seeds"),
    ]
    assert all(line.known and line.interval for line in findings(one, "accuracy"))

    def accuracy(node):  # a third of every gap is recovered, more or less
        own = {model: 0.65 + 0.14 * place for place, model in enumerate(MODELS)}
        named = [own[word] for word in node.title.split() if word in own]
        return named[0] if len(named) == 1 else (named[0] + 2 * named[1]) / 3

    given = {"models": MODELS, "tasks": ["movie", "amazon"], "selections": ["oracle", "final"], "seeds": [0]}
    made = chosen(**given, accuracy=accuracy)
    cells = aggregate(load("one", made.fill().root))
    many = findings(cells, "accuracy")
    assert [(line.who, line.diagnostic) for line in many] == [
        ("xent", False),
        ("logconf", False),
        ("xent, oracle (diagnostic)", True),
        ("logconf, oracle (diagnostic)", True),
    ]
    assert all(line.basis.startswith("median of 3 pairs, each a median over tasks") for line in many)
    assert all(len(line.dots) == 3 and line.marks is None for line in many)
    gone = dataclasses.replace(cells[0].accuracy, pgr=absent("no gap: ceiling - weak = 0.001"))
    fewer = findings([dataclasses.replace(cells[0], accuracy=gone), *cells[1:]], "accuracy")
    bases = {line.who: line.basis for line in fewer}
    assert bases.pop(variant(cells[0].method, cells[0].selection)).startswith(
        "median of 3 pairs, each a median over the tasks that could enter"
    )
    assert all("over tasks" in basis for basis in bases.values())


def test_several_sweeps_are_each_told_how_to_be_made_again(synthetic):
    parts = [load("one", enrich(synthetic(folder="a", seeds=[0, 1]).fill()).root)]
    other = enrich(synthetic(folder="b", name="two", seeds=[2, 3], question="And more?").fill())
    parts.append(load("two", other.root))
    rows = merge.merge(parts, parts[0].folder.parent / "one+two")
    cells = aggregate(rows)
    html = page(rows, cells, compose(rows, cells), {})
    assert re.findall(r"<h3>(\w+)</h3>", html) == ["one", "two"]
    assert "seeds:\n- 2\n- 3" in html
