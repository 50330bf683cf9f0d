"""The table of a summary, as text and for a terminal."""

import rich

from pyaccel.integrations.record import Link, Record
from pyaccel.integrations.report import Row, report


class Pipe:
    scheduler = None


class Fused:
    def pyaccel_summary(self):
        return "Fused: 3 fused steps, 2 by the original\n  2 × its noise is not Gaussian"


class Cache:
    def summary(self):
        return "teacache(threshold=0.1): 6 model calls, 3 in full, 50% of them"


def made():
    pipe = Pipe()
    pipe.scheduler = Fused()
    record = Record(
        Link(pipe), True, {"scheduler": (None, pipe.scheduler)}, {"unet": Cache()}, {}, {"prior": "nothing [there]"}
    )
    return pipe, record


def test_rows_and_text():
    pipe, record = made()
    found = report(pipe, record)
    assert found.rows == (
        Row("scheduler", "Fused, fused", "3 fused steps, 2 by the original\n  2 × its noise is not Gaussian"),
        Row("unet", "teacache(threshold=0.1)", "6 model calls, 3 in full, 50% of them"),
        Row("prior", "no cache", "nothing [there]"),
    )
    assert str(found).splitlines() == [
        "Pipe, accelerated",
        "part       what                     done",
        "scheduler  Fused, fused             3 fused steps, 2 by the original",
        "                                      2 × its noise is not Gaussian",
        "unet       teacache(threshold=0.1)  6 model calls, 3 in full, 50% of them",
        "prior      no cache                 nothing [there]",
    ]


def test_a_bare_model_has_the_name_of_its_class():
    _, record = made()
    record.schedulers, record.caches = {}, {"": Cache()}
    assert [row.part for row in report(Pipe(), record).rows] == ["Pipe", "prior"]


def test_rich_shows_it(capsys):
    rich.print(report(*made()))
    assert "teacache" in capsys.readouterr().out
