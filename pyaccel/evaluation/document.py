"""What the HTML pages of all reports share: one file each, with its pictures inside, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #f4f5f7; --card: #ffffff; --text: #1b1f27; --faint: #6a7280; --line: #e3e6eb;
  --best: #0b7a4b; --best-paper: #e2f5ea; --baseline: #4b5563; --few: #2563eb; --caching: #d9670b;
  --sde: #8b3fd1; --students: #0b8a54; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1217; --card: #171b22; --text: #e8eaee; --faint: #98a1af;
  --line: #2e3541; --best: #6fdba6; --best-paper: #143626; --baseline: #b8c0cc; --few: #6ea8fe; --caching: #f5a155;
  --sde: #c29bf5; --students: #6fdba6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 48px 24px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 12px; }
h2 { font-size: 1.1rem; margin: 44px 0 4px; }
.lead { font-size: 1.12rem; max-width: 54em; margin: 0 0 18px; }
.hint, .facts { color: var(--faint); font-size: 0.9rem; margin: 0 0 12px; }
.facts span { margin-right: 1.6em; display: inline-block; }
.facts b { font-weight: 600; color: var(--text); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 9px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 18px; white-space: normal; min-width: 13em; }
tbody tr:last-child td { border-bottom: 0; }
thead th { color: var(--faint); font-weight: 600; font-size: 0.8rem; vertical-align: bottom; white-space: normal; }
td.best .value { background: var(--best-paper); color: var(--best); font-weight: 700; border-radius: 6px;
  padding: 2px 7px; margin-right: -7px; }
.ratio, .note { display: block; color: var(--faint); font-size: 0.76rem; line-height: 1.3; }
.name { font-weight: 600; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px;
  background: var(--faint); }
.few-steps, .trained-solvers { background: var(--few); } .caching { background: var(--caching); }
.SDE { background: var(--sde); } .students { background: var(--students); }
.baseline { background: var(--baseline); }
img { display: block; width: 100%; height: auto; }
figure { margin: 0; padding: 10px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 8px 22px; font-size: 0.92rem; margin: 12px 0 0; }
dt { font-weight: 600; } dt small { color: var(--faint); font-weight: 400; }
dd { margin: 0; color: var(--faint); }
@media (max-width: 620px) { dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 10px; } }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A page of the title, plain text, and HTML ``parts``; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def facts_line(results: Mapping) -> str:
    """The machine and the settings of ``results`` as one line; empty where there are none."""
    facts = dict(results.get("settings") or {})
    if results.get("machine"):
        facts = {"machine": results["machine"], **facts}
    spans = "".join(f"<span>{escape(str(key))} <b>{escape(str(value))}</b></span>" for key, value in facts.items())
    return f'<p class="facts">{spans}</p>' if spans else ""


def figure(title: str, hint: str, themes: Mapping[str, str] | None, alternative: str) -> str:
    """A picture with its title; ``themes`` maps "light" and "dark" to base64 PNGs.

    ``alternative`` says in words what is seen. Empty where there is no picture.
    """
    if not themes:
        return ""
    sources = {theme: f"data:image/png;base64,{data}" for theme, data in themes.items()}
    dark = f'<source srcset="{sources["dark"]}" media="(prefers-color-scheme: dark)">' if "dark" in sources else ""
    picture = f'<picture>{dark}<img src="{sources["light"]}" alt="{escape(alternative)}"></picture>'
    return (
        f'<h2>{escape(title)}</h2><p class="hint">{escape(hint)}</p><div class="card"><figure>{picture}</figure></div>'
    )
