import zipfile

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
        assert float(prepared.split()[1].replace(",", "")) > 0
        assert clicks.startswith("clicks    a batch of 64 corrected in ")
        assert clicks.endswith("by 1 threads")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]
    for wrong, told in (
        ("-1", "0 or more"),
        ("nan", "0 or more"),
        ("inf", "0 or more"),
        ("90000", "lower --image-memory"),
    ):
        assert main([*words, "--image-memory", wrong]) == 2
        assert told in capsys.readouterr().err
    config.write_text(config.read_text().replace("batch: 2", "samples: 3, batch: 4"))
    assert main(words) == 2
    assert "fewer samples than one batch" in capsys.readouterr().err


def test_a_damaged_image_is_told_by_name(tmp_path, shard_root, capsys):
    """By a worker process too."""
    with zipfile.ZipFile(shard_root / "tiny.zip") as whole, zipfile.ZipFile(tmp_path / "tiny.zip", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"no image" if name == "photo2.webp" else whole.read(name))
    config = tmp_path / "tiny.yaml"
    words = [str(config), "--data-root", str(tmp_path), "--no-network", "--time-budget", "0.02", "--workers"]
    for workers, share, status in (("0", 0.02, 0), ("1", 0.02, 0), ("1", 0, 2)):
        data = f"data: {{shards: [tiny.zip], unreadable: {share}}}"
        config.write_text(f"{{network: icmformer_vit_tiny224, size: 224, batch: 2, {data}}}")
        assert main([*words, workers]) == status
        told = capsys.readouterr().err
        assert told.count("passed over: tiny.zip: photo2: the image photo2 of") == 1
        assert ("error: 1 of 5 images cannot be read" in told) == (status == 2)
        assert "Traceback" not in told
