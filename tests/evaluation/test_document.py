"""What all pages share."""

from pyaccel.evaluation.document import document, facts_line, figure


def test_the_title_is_escaped_and_empty_parts_are_left_out():
    text = document("a <b>", ["<p>one</p>", "", "<p>two</p>"])
    assert "<title>a &lt;b&gt;</title>" in text
    assert "<h1>a &lt;b&gt;</h1>\n<p>one</p>\n<p>two</p>\n</main>" in text
    assert text.startswith("<!doctype html>")


def test_facts_are_machine_and_settings():
    assert facts_line({}) == ""
    line = facts_line({"settings": {"<seed>": 0}, "machine": "two & cores"})
    assert line.index("two &amp; cores") < line.index("&lt;seed&gt;")


def test_a_figure_has_its_dark_half_where_there_is_one():
    assert figure("t", "h", {}, "a") == figure("t", "h", None, "a") == ""
    both = figure("t", "h", {"light": "AAA", "dark": "BBB"}, 'a "b"')
    assert '<source srcset="data:image/png;base64,BBB" media="(prefers-color-scheme: dark)">' in both
    assert '<img src="data:image/png;base64,AAA" alt="a &quot;b&quot;">' in both
    assert "<source" not in figure("t", "h", {"light": "AAA"}, "a")
