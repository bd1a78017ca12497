from training.train import main


def test_the_feed_is_measured_without_a_network(tmp_path, shard_root, capsys):
    """No --out is needed, and nothing is written."""
    config = tmp_path / "tiny.yaml"
    config.write_text("{network: icmformer_vit_tiny224, size: 224, batch: 2, data: {shards: [tiny.zip]}}")
    words = [str(config), "--data-root", str(shard_root), "--no-network", "--time-budget", "0.02", "--threads", "1"]
    for gigabytes, workers in (("0.1", "1"), ("0", "0")):
        assert main([*words, "--image-memory", gigabytes, "--workers", workers]) == 0
        decoded, prepared, clicks = capsys.readouterr().out.splitlines()
        assert decoded.startswith("decoded   5 images once in ")
        assert decoded.endswith("0.00 GB kept")
        assert "samples a second at 224 x 224" in prepared
        assert int(prepared.split()[1].replace(",", "")) > 20
        assert clicks.startswith("clicks    a batch of 64 corrected in ")
        assert clicks.endswith("by 1 threads")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]
    assert main([*words, "--image-memory", "-1"]) == 2
    assert "--image-memory cannot be negative" in capsys.readouterr().err
