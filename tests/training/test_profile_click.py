"""Where a click's time goes, before and after."""

import re

import pytest

from training.profile_click import main

TINY = "random:icmformer_vit_tiny224"


def test_the_table_holds_the_five_costliest_operations_and_the_whole(tmp_path, capsys):
    assert main(["--weights", TINY, "--repeats", "1", "--output", str(tmp_path / "profile.md")]) == 0
    told = capsys.readouterr().out
    assert (tmp_path / "profile.md").read_text() == told
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if re.match(r"\| (\d|all)", line)]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "all"]
    for column in range(1, len(rows[0])):
        shares = [int(re.search(r"(\d+)%", row[column])[1]) for row in rows[:5]]
        assert shares == sorted(shares, reverse=True)
        assert 50 < sum(shares) <= 102
    assert "`addmm`" in rows[0][1] + rows[1][1], "matrix products cost most"


@pytest.mark.parametrize("options", [["--repeats=0"], ["--threads=-1"], ["--output=/no/such/folder/a.md"]])
def test_options_that_cannot_be_are_refused_before_anything_is_measured(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert options[0].partition("=")[0] in capsys.readouterr().err


def test_a_network_without_a_published_path_is_refused(capsys):
    assert main(["--weights", "starter"]) == 2
    assert "is not iCMFormer on a plain ViT" in capsys.readouterr().err
