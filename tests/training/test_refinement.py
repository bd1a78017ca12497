import re

from training.refinement import main


def test_always_and_never_are_the_two_engines(shard_root, capsys):
    """Small objects in large photos: the pass is made for each, and the first masks get better."""
    assert main(["--weights", "starter", "--dataset", "mosaic", "--root", str(shard_root / "tiny.zip")]) == 0
    rows = dict(re.findall(r"^ *(never|always|0\.\d) +(.*)$", capsys.readouterr().out, re.M))
    assert list(rows) == ["never", "0.5", "0.6", "0.7", "0.8", "0.9", "always"]
    runs = [float(row.split()[1]) for row in rows.values()]
    assert runs[0] == 1
    assert runs == sorted(runs)
    assert 1 < runs[-1] <= 2
    assert rows["never"].split()[0] != rows["always"].split()[0]


def test_no_object_is_told(shard_root, capsys):
    assert main(["--root", str(shard_root / "none.zip")]) == 2
    assert "error:" in capsys.readouterr().err
