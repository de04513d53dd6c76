"""cluster.py: what of an earlier run stays, the oracle, chosen resolutions, encoders that saw labels."""

import pandas as pd
import pytest

from tests.task_scripts import run


@pytest.mark.slow
def test_scores_of_an_earlier_run_do_not_survive_a_run_without_labels(scripts, capsys, tmp_path, adata, model_path):
    adata[:60].write_h5ad(tmp_path / "few.h5ad")
    few, output = tmp_path / "few.h5ad", tmp_path / "out"
    run(scripts, capsys, "cluster", model_path, few, output, "--label_key", "cell_type", "--resolution", "1")
    assert (output / "metrics.csv").exists()
    assert (output / "umap_pca.pdf").exists()
    assert (output / "marker_genes.csv").exists()
    status, _ = run(scripts, capsys, "cluster", model_path, few, output, "--overwrite", "--baselines", "none",
                    "--markers", "0", "--resolution", "1")  # fmt: skip
    assert status == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "cluster_sizes.csv", "clustered.h5ad", "clusters.csv", "manifest.json", "report.html", "umap.pdf",
        "umap.png"]  # fmt: skip


def test_the_encoder_of_a_classifier_is_not_clustered_as_if_it_had_seen_no_label(
    scripts, capsys, tmp_path, islets_path, classifier_path
):
    status, error = run(scripts, capsys, "cluster", classifier_path, islets_path, tmp_path / "out")
    assert status == 2
    assert "is a classifier, whose encoder saw labels" in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_oracle_is_a_row_of_its_own_and_needs_labels(scripts, capsys, tmp_path, islets_path, model_path):
    more = ("--baselines", "none", "--markers", "0", "--oracle", "--resolution", "1")
    status, error = run(scripts, capsys, "cluster", model_path, islets_path, tmp_path / "out", *more)
    assert status == 2
    assert "--label_key" in error[0]
    status, _ = run(
        scripts, capsys, "cluster", model_path, islets_path, tmp_path / "out", *more, "--label_key", "cell_type"
    )
    assert status == 0
    scores = pd.read_csv(tmp_path / "out" / "metrics.csv").pivot(index="method", columns="metric", values="value")
    assert set(scores.index) == {"scDMC zero-shot", "oracle (scDMC zero-shot)"}
    assert scores.loc["oracle (scDMC zero-shot)", "NMI"] >= scores.loc["scDMC zero-shot", "NMI"]


@pytest.mark.slow
def test_a_resolution_that_was_chosen_is_written_for_each_method(scripts, capsys, tmp_path, adata, model_path):
    adata[:100].write_h5ad(tmp_path / "few.h5ad")
    more = ("--resolution", "auto", "--markers", "0")
    status, _ = run(scripts, capsys, "cluster", model_path, tmp_path / "few.h5ad", tmp_path / "out", *more)
    assert status == 0
    table = pd.read_csv(tmp_path / "out" / "metrics.csv")  # without labels there is nothing else to tell
    assert table["metric"].tolist() == ["resolution", "resolution"]
    chosen = table.set_index("method")["value"]
    assert set(chosen.index) == {"scDMC zero-shot", "PCA of 2,000 variable genes"}
    assert set(chosen) <= {0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0}
    # The same clusters as when it is asked for by its number.
    more = ("--resolution", chosen["scDMC zero-shot"], "--markers", "0", "--baselines", "none")
    status, _ = run(scripts, capsys, "cluster", model_path, tmp_path / "few.h5ad", tmp_path / "same", *more,
                    "--label_key", "cell_type")  # fmt: skip
    assert status == 0
    assert (tmp_path / "same" / "clusters.csv").read_bytes() == (tmp_path / "out" / "clusters.csv").read_bytes()
    assert "resolution" not in set(pd.read_csv(tmp_path / "same" / "metrics.csv")["metric"])
