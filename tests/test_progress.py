from pyaccel.progress import progress_bar


def test_without_a_terminal_nothing_is_drawn(capsys):
    with progress_bar("work", 3) as bar:
        for _ in range(3):
            bar.advance()
            bar.note("x")
    with progress_bar("work", 3, enabled=False) as bar:
        bar.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_line_now_and_then_without_a_terminal(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("pyaccel.progress.time.monotonic", lambda: next(clock))
    with progress_bar("work", 4) as bar:
        bar.note("loss 1")
        for _ in range(4):
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert lines[0].startswith("work: 2/4")
    assert "loss 1" in lines[0]
