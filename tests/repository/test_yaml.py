"""All YAML is well formed and of one style."""

from tests.repository.checkers import run, tracked


def test_yamllint_finds_nothing():
    files = tracked("*.yaml", "*.yml", "*.cff", ".yamllint")
    assert len(files) > 40
    code, told = run("yamllint", "--strict", "--format", "parsable", *files)
    assert code == 0, told


def test_yamllint_finds_what_is_wrong(tmp_path):
    """The settings leave it something to find."""
    (tmp_path / "twice.yml").write_text("jobs: {}\njobs: {}\n")
    (tmp_path / "indented.yml").write_text("a:\n  b: 1\n   \n  c:  2\n")
    code, told = run("yamllint", "--strict", "--format", "parsable", tmp_path)
    assert code != 0
    assert "(key-duplicates)" in told
    assert "(trailing-spaces)" in told
