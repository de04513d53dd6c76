"""One shared run of the whole benchmark: two data sets, two seeds, both protocols, own embeddings, a row that fails."""

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.integration import rows
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.scoring import SCIB_RESOLUTIONS, best_resolution, scib_averages
from scdmc.result_folders import result_folder

pytestmark = pytest.mark.slow

SCIB = ("NMI", "ARI", "ASW_label", "isolated_labels", "cLISI", "BRAS", "iLISI", "kBET", "graph_connectivity",
        "PCR_comparison", "AvgBIO", "AvgBATCH", "overall")  # fmt: skip
SIX = ("ARI", "NMI", "ASW_label", "ASW_batch", "graph_connectivity", "AvgBIO", "AvgBATCH", "overall")
METHODS = ["scDMC zero-shot", "scDMC zero-shot + Harmony", "PCA, not integrated", "Harmony", "X_mine", "csv", "noise"]


def failing(context):
    if context.data.name == "two":
        return context.pca * np.nan
    if context.seed == 43:
        raise np.linalg.LinAlgError("SVD did not\nconverge")
    return context.pca


@pytest.fixture(scope="module")
def study(tmp_path_factory, load_script, model_path, islets_path):
    """Folder, status and log of a run whose Harmony fails on one data set, and with the second seed on the other."""
    folder = tmp_path_factory.mktemp("study")
    adata = anndata.read_h5ad(islets_path)
    few = adata[adata.obs["cell_type"].isin(["beta", "ductal"])].copy()
    generator = np.random.default_rng(0)
    few.obs["cell_type"] = few.obs["cell_type"].astype(object)
    few.obs.iloc[0, few.obs.columns.get_loc("cell_type")] = np.nan
    few.obsm["X_mine"] = (
        generator.normal(size=(few.n_obs, 3)) + 9 * (few.obs["cell_type"] == "beta").to_numpy()[:, None]
    )
    table = pd.DataFrame(few.obsm["X_mine"], few.obs_names)
    table.sample(frac=1, random_state=0).to_csv(folder / "other_order.csv")
    anndata.AnnData(generator.normal(size=few.shape)[:, :4], obs=few.obs[[]]).write_h5ad(folder / "noise.h5ad")
    parts = {"one": few[::2].copy(), "two": few[1::2].copy()}
    del parts["two"].obs["cell_type"]
    for name, part in parts.items():
        part.write_h5ad(folder / f"{name}.h5ad")
    with result_folder(folder / "out") as earlier:
        for name in ("umap_grid.pdf", "umap_harmony.png"):
            (earlier / name).write_text("of an earlier run on one data set")
    standard = dict(rows.STANDARD_ROWS)
    patch = pytest.MonkeyPatch()
    patch.setitem(rows.STANDARD_ROWS, "harmony", rows.Row("Harmony", "X_harmony", failing, "fails"))
    arguments = ["--model", model_path, "--output_dir", folder / "out", "--data_path", folder / "one.h5ad",
                 folder / "two.h5ad", "--seeds", "2", "--harmony", "--embeddings", "X_mine", "--embedding_files",
                 f"csv={folder / 'other_order.csv'}", f"noise={folder / 'noise.h5ad'}", "--overwrite"]  # fmt: skip
    status = load_script("downstream_tasks/integration.py").main([str(word) for word in arguments])
    patch.undo()
    assert standard == rows.STANDARD_ROWS
    return folder / "out", status


@pytest.fixture(scope="module")
def metrics(study):
    return pd.read_csv(study[0] / "metrics.csv")


def test_both_protocols_have_means_and_deviations_of_every_seed(metrics):
    assert list(metrics) == ["dataset", "protocol", "task", "method", "metric", "value", "sd", "runs"]
    labelled = metrics[metrics["dataset"] == "one"]
    assert set(labelled["method"]) == set(METHODS)
    by_protocol = labelled.groupby("protocol")["metric"].unique()
    assert set(by_protocol["published"]) == set(SIX)
    assert set(by_protocol["scib"]) == set(SCIB)
    assert set(by_protocol["label_free"]) == {"neighbours_kept", "batch_entropy"}
    assert (labelled.loc[labelled["method"] != "Harmony", "runs"] == 2).all()
    values = labelled[labelled["metric"] != "kBET"]["value"]  # which needs larger types
    assert values.between(0, 1).all()


def test_without_labels_there_are_the_scores_that_need_none(metrics):
    assert set(metrics.loc[metrics["dataset"] == "two", "protocol"]) == {"label_free"}


def test_a_row_that_fails_is_shown_and_the_others_stay(study, metrics):
    out, status = study
    assert status == 1
    told = pd.read_csv(out / "methods.csv").set_index(["dataset", "method"])["status"]
    assert told["one", "Harmony"] == "failed: with seed 43: LinAlgError: SVD did not converge"
    assert told["two", "Harmony"].endswith("cells is not finite (first rows: 0, 1, 2)")
    assert (told.drop(index=[("one", "Harmony"), ("two", "Harmony")]) == "done").all()
    of_harmony = metrics[metrics["method"] == "Harmony"]
    assert set(of_harmony["dataset"]) == {"one"}
    assert (of_harmony["runs"] == 1).all()
    page = (out / "report.html").read_text(encoding="utf8")
    assert "Harmony failed: with seed 43: LinAlgError: SVD did not converge" in page
    assert "Harmony failed: the embedding of " in page
    assert "| Harmony | failed | failed |" in (out / "two" / "metrics.md").read_text(encoding="utf8")


def test_own_embeddings_are_joined_by_the_names_of_the_cells(study, metrics):
    one = metrics[(metrics["dataset"] == "one") & (metrics["protocol"] == "published")]
    scores = one.pivot(index="method", columns="metric", values="value")
    pd.testing.assert_series_equal(scores.loc["csv"], scores.loc["X_mine"], check_names=False)
    assert scores.loc["X_mine", "ARI"] == pytest.approx(1)
    assert scores.loc["noise", "ARI"] < 0.2
    integrated = anndata.read_h5ad(study[0] / "one" / "integrated.h5ad")
    np.testing.assert_allclose(integrated.obsm["X_csv"], integrated.obsm["X_mine"], rtol=1e-6)
    assert {"X_scDMC", "X_scDMC_harmony", "X_pca", "X_harmony", "X_noise"} <= set(integrated.obsm)


def test_every_protocol_has_figures_tables_for_papers_and_a_curve(study):
    out, _ = study
    in_common = {
        "manifest.json",
        "methods.csv",
        "metrics.csv",
        "metrics.md",
        "metrics.tex",
        "report.html",
        "one",
        "two",
    }
    scores = {f"{stem}.{kind}" for stem in ("scores", "scores_scib", "scores_label_free") for kind in ("pdf", "png")}
    assert {path.name for path in out.iterdir()} == in_common | scores | {"one", "two"}
    for name in ("scores_scib.png", "umap_grid.png", "umap_mine.pdf", "umap_csv.png", "resolution.png"):
        assert (out / "one" / name).stat().st_size > 0
    paper = (out / "metrics.tex").read_text(encoding="utf8")
    for word in (r"\multicolumn{3}{c}{one}", r"\cmidrule(lr){2-4}", r"\label{tab:integration-1}", r"\resizebox"):
        assert word in paper
    assert paper.count(r"\begin{table}") == paper.count(r"\end{table}") == 3
    assert " ± " in (out / "report.html").read_text(encoding="utf8")
    curves = pd.read_csv(out / "one" / "resolution.csv")
    assert len(curves) == (2 * len(METHODS) - 1) * len(SCIB_RESOLUTIONS)
    chosen = curves[curves["is_chosen"]].groupby("method")["NMI"].mean()
    best = curves.groupby(["method", "seed"])["NMI"].max().groupby("method").mean()
    pd.testing.assert_series_equal(chosen, best)


def test_the_best_resolution_is_the_lowest_of_those_with_the_highest_nmi():
    curve = {0.1: {"NMI": 0.5}, 0.2: {"NMI": 0.9}, 0.3: {"NMI": 0.9}}
    assert best_resolution(curve) == 0.2


def test_the_averages_of_scib_leave_out_what_cannot_be_scored():
    scores = scib_averages(dict.fromkeys(SCIB[:5], 0.5) | dict.fromkeys(SCIB[5:10], 1.0) | {"kBET": np.nan})
    assert [scores[name] for name in ("AvgBIO", "AvgBATCH", "overall")] == pytest.approx([0.5, 1.0, 0.7])


def test_options_that_name_nothing_or_nothing_known_are_refused():
    for wrong in ({"protocols": ["nature"]}, {"protocols": []}, {"seeds": []}):
        with pytest.raises(ScDMCError, match=next(iter(wrong))):
            IntegrationOptions(methods=["pca"], **wrong)
