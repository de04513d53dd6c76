"""The commands of the README and of docs/ run as printed, on 300 real cells and a tiny model; all links lead home."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.gene_analysis.sets import write_gene_sets

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SCRIPT_FOLDERS = ("prepare", "tokenizer", "pretrain", "downstream_tasks")
# Appended to a printed command: the last flag counts. They shrink the work, nothing else.
SMALLER = {
    "scDMC_pretrain.py": "--max_steps 2 --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 "
    "--intermediate_size 32 --max_length 64 --batch_size 8 --evaluate_every 2 --save_every 2",
    "downstream_tasks.py": "--epochs 1",
    "gene_modules.py": "--permutations 20 --min_cells_per_gene 5 --resolutions 0.5 2",
    "attention_analysis.py": "--attribution_cells 3 --min_cells_per_gene 5 --map_cells 1",
    "gene_regulatory_network.py": "--min_cells_per_gene 5 --n_targets 40 --perturbed_factors 1 --perturbed_cells 2",
    "perturb.py": "--max_cells_per_type 3 --null_draws 5",
}


# The README comes first: its chain makes what the commands of the other pages go on with.
GUIDES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PAGES = (*sorted(ROOT.glob("*.md")), *(page for folder in ("docs", "models", "tests", "tokenizer")
                                       for page in sorted((ROOT / folder).rglob("*.md"))))  # fmt: skip
PRINTED = re.compile(r"\(cd (\w+) && python -u (\w+\.py) (.*)\)")
METHOD_CITATION = re.compile(r'docs/method\.md,\s+"([^"]+)"')


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf8"), flags=re.M | re.S)


def printed_commands() -> list[str]:
    """Every distinct command of the guides, in the order in which a reader meets them."""
    lines = [line for page in GUIDES for block in code_blocks(page, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.strip()))


def test_printed_commands_leave_the_reader_at_the_root():
    assert all(PRINTED.fullmatch(command) for command in printed_commands())


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeats = sum(name == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", name) is not None for name in found)
        found.add(f"{anchor}-{repeats}" if repeats else anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """Relative links of a page, and anchors, that lead nowhere."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def write_regulons(folder):
    """Made-up regulons of genes that the islets have, where fetch_regulons.py would put real ones."""
    adata = anndata.read_h5ad(ROOT / "tests" / "data" / "islets_300.h5ad")
    genes = adata.var_names[np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:200]]
    pairs = pd.DataFrame([(tf, target) for tf in genes[:10] for target in genes[10:60:2]], columns=["tf", "target"])
    folder.mkdir()
    pairs.to_csv(folder / "regulons.csv", index=False)
    write_gene_sets(folder / "regulons.gmt", {f"set_{i}": genes[i::12].tolist() for i in range(12)}, "made up")


def write_pair(folder):
    """A labelled and a new file, as fetch_demo_data.py --pair_dir makes them of all cells."""
    adata = anndata.read_h5ad(ROOT / "tests" / "data" / "islets_300.h5ad")
    folder.mkdir()
    adata[::2].write_h5ad(folder / "labelled.h5ad")
    adata[1::2].copy().write_h5ad(folder / "new.h5ad")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the script folders with the 300 cells where `make demo` puts its cells; all commands have run in it."""
    tree = tmp_path_factory.mktemp("readme")
    for folder in SCRIPT_FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    counts = tree / "demo_output" / "counts"
    counts.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "data" / "islets_300.h5ad", counts / "islets.h5ad")
    write_pair(tree / "demo_output" / "pair")
    write_regulons(tree / "demo_output" / "regulons")
    for command in printed_commands():
        run_printed(command, tree)
    return tree


def run_printed(command, tree):
    """Run a printed command from its folder in this process: the libraries are imported once, no figure is drawn."""
    folder, script, flags = PRINTED.fullmatch(command).groups()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree / folder)
        patch.setattr(sys, "argv", [script, *shlex.split(flags), *SMALLER.get(script, "").split()])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
    assert not end.value.code, command


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", *GUIDES], ids=lambda page: page.name)
def test_every_path_of_the_repository_that_a_page_names_is_there(page):
    named = re.findall(r"`((?:scdmc|tests|docs|benchmarks|prepare|tokenizer|pretrain|downstream_tasks)/[\w./-]+)`",
                       page.read_text(encoding="utf8"))  # fmt: skip
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_readme_takes_five_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf8")
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1600


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_leads_somewhere(page):
    assert not broken_links(page)


def test_links_that_lead_nowhere_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page, with `code`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n[no link](in_code.md)\n```\n\n"
        "[here](#a-page-with-code) [again](page.md#twice-1) [web](https://example.org/gone) `[no](link.md)`\n"
        "[wrapped\nover lines](lost.md) ![figure](lost.png) [lost](#no-heading) [lost](page.md#twice-2)\n"
    )
    assert broken_links(page) == ["lost.md", "lost.png", "#no-heading", "page.md#twice-2"]


def test_every_guide_is_in_the_table_of_contents_and_begins_with_a_command():
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf8")
    for page in GUIDES[1:]:
        assert page.name == "README.md" or f"]({page.name})" in contents, page
        before_first_section = page.read_text(encoding="utf8").split("\n## ")[0]
        assert re.search(r"^```(bash)?\n", before_first_section, flags=re.M), page


def test_the_code_cites_sections_of_the_method_that_exist():
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "method.md").read_text(encoding="utf8"), flags=re.M)
    sources = [path for folder in ("scdmc", "tests", *SCRIPT_FOLDERS) for path in (ROOT / folder).rglob("*.py")]
    cited = {title for path in sources for title in METHOD_CITATION.findall(path.read_text(encoding="utf8"))}
    assert "Tokenization" in cited
    assert cited <= set(headings)


def test_the_pages_show_every_script_of_the_three_stages():
    shown = {re.search(r"(\w+\.py)", command).group(1) for command in printed_commands()}
    scripts = {path.name for folder in SCRIPT_FOLDERS for path in (ROOT / folder).glob("*.py")}
    # census.py, fetch_regulons.py and paper_data.py need the network; text_pretrain.py, generate_cells.py and
    # text_eval.py a text encoder; report.py and watch.py are shown as scdmc report and scdmc watch; the others are run
    # by the demo, or by us alone.
    unshown = {"build_ontology.py", "build_vocabulary.py", "census.py", "fetch_demo_data.py", "fetch_orthologs.py",
               "fetch_regulons.py", "paper_data.py", "demo_report.py", "report.py", "watch.py", "text_pretrain.py",
               "generate_cells.py", "text_eval.py"}  # fmt: skip
    assert shown == scripts - unshown


def test_the_pages_keep_the_command_names_and_flags_of_the_paper():
    text = "\n".join(printed_commands())
    for promised in (
        "cd tokenizer && python -u tokenizer_combine.py --input_directory",
        "--output_directory",
        "--output_prefix",
        "cd pretrain && python -u scDMC_pretrain.py --dataset_path",
        "--output_dir",
        "--batch_size",
        "--learning_rate",
        "cd downstream_tasks && python -u downstream_tasks.py --pretrained_model_path",
        "--finetune_data_path",
        "cd downstream_tasks && python -u integration.py --model_path",
        "--tokenized_data_path",
    ):
        assert promised in text


def test_the_outputs_that_the_pages_list_are_there(tree):
    example = tree / "example"
    for name in (
        "split.csv",
        "gene_medians.json",
        "gene_medians.provenance.json",
        "tokenized/islets.parquet",
        "tokenized/islets.report.json",
        "tokenized/islets.token_ids.json",
        "tokenized/islets.gene_medians.json",
        "pretrained/config.json",
        "pretrained/model.safetensors",
        "pretrained/token_ids.json",
        "pretrained/gene_medians.json",
        "pretrained/tokenization.json",
        "pretrained/README.md",
        "pretrained/history.csv",
        "pretrained/guessing.json",
        "pretrained/loss_curves.png",
        "pretrained/loss_curves.pdf",
        "annotation/model.safetensors",
        "annotation/arguments.json",
        "annotation/metrics.csv",
        "annotation/per_class.csv",
        "annotation/per_class.png",
        "annotation/predictions.csv",
        "annotation/confusion_matrix.png",
        "annotation/confusion_matrix.pdf",
        "annotation/split.csv",
        "labelled/annotated.h5ad",
        "labelled/labels.csv",
        "labelled/report.html",
        "labelled/classifier/model.safetensors",
        "clustering/clusters.csv",
        "clustering/clustered.h5ad",
        "clustering/cluster_sizes.csv",
        "clustering/marker_genes.csv",
        "clustering/metrics.csv",
        "clustering/umap.png",
        "clustering/umap_pca.png",
        "integration/metrics.csv",
        "integration/scores.png",
        "integration/integrated.h5ad",
        "integration/metrics.md",
        "integration/metrics.tex",
        "integration/report.html",
        "integration/umap_grid.png",
        "modules/genes.csv",
        "modules/modules.csv",
        "modules/activity.png",
        "modules/tests.csv",
        "modules/report.html",
        "attention/genes.csv",
        "attention/marker_recovery.csv",
        "attention/heads.csv",
        "attention/attributions.csv",
        "attention/top_genes.png",
        "attention/report.html",
        "network/edges.csv",
        "network/association_edges.csv",
        "network/evaluation.csv",
        "network/hubs.csv",
        "network/topology.csv",
        "network/networks.png",
        "network/report.html",
        "perturbation/perturbations.csv",
        "perturbation/shift.png",
        "perturbation/report.html",
    ):
        assert (example / name).stat().st_size > 0, name
    assert list((example / "pretrained" / "checkpoints").iterdir())
    assert list((example / "pretrained" / "tensorboard").iterdir())


def test_the_python_of_the_readme_runs(tree):
    (code,) = code_blocks(ROOT / "README.md", "python")
    shown = "print(adata.obsm['X_scDMC'].shape, adata.obs['scDMC_cell_type'].notna().all())"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{shown}"], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().splitlines()[-1] == "(300, 32) True"


def test_no_output_is_left_half_written(tree):
    assert not [
        path for path in (tree / "example").rglob(".*") if ".partial" in path.name or path.name.endswith(".shards")
    ]


def test_the_classifier_is_scored_beside_its_baselines_on_the_same_test_cells(tree):
    metrics = pd.read_csv(tree / "example/annotation/metrics.csv")
    assert list(metrics) == ["task", "method", "metric", "value"]
    assert {"scDMC fine-tuned", "logistic regression", "15-NN on PCA", "majority class"} <= set(metrics["method"])
    predictions = pd.read_csv(tree / "example/annotation/predictions.csv")
    test_cells = predictions[predictions["split"] == "test"]
    accuracy = (test_cells["label"] == test_cells["predicted"]).mean()
    ours = metrics[(metrics["method"] == "scDMC fine-tuned") & (metrics["metric"] == "accuracy")]["value"].item()
    assert ours == pytest.approx(accuracy)
    split = pd.read_csv(tree / "example/split.csv")
    assert (predictions["split"].to_numpy() == split["split"].to_numpy()).all()


def test_annotated_and_embedded_files_hold_the_same_cells_with_results_added(tree):
    original = anndata.read_h5ad(tree / "demo_output/counts/islets.h5ad")
    annotated = anndata.read_h5ad(tree / "example/annotated.h5ad")
    embedded = anndata.read_h5ad(tree / "example/embedded.h5ad")
    for adata in (annotated, embedded):
        assert list(adata.obs_names) == list(original.obs_names)
        assert (adata.X != original.X).nnz == 0
        assert np.isfinite(adata.obsm["X_scDMC"]).all()
    assert embedded.obsm["X_scDMC"].shape == (300, 32)  # both streams of hidden size 16
    probability = annotated.obs["scDMC_probability"]
    assert probability.between(0, 1).all()
    assert (annotated.obs["scDMC_margin"] <= probability).all()
    predictions = pd.read_csv(tree / "example/annotation/predictions.csv").set_index("cell_id")["predicted"]
    assert (predictions[annotated.obs_names] == annotated.obs["scDMC_cell_type"].astype(str)).all()


def test_integration_scores_every_method_with_the_same_metrics(tree):
    metrics = pd.read_csv(tree / "example/integration/metrics.csv")
    assert set(metrics["protocol"]) == {"published", "scib", "label_free"}
    metrics = metrics[metrics["protocol"] == "published"].pivot(index="method", columns="metric", values="value")
    assert set(metrics.index) == {"scDMC zero-shot", "PCA, not integrated", "Harmony"}
    assert {"ARI", "NMI", "ASW_label", "ASW_batch", "graph_connectivity", "AvgBIO", "AvgBATCH", "overall"} <= set(
        metrics
    )
    assert metrics.notna().all().all()


def test_the_demo_report_gathers_what_the_scripts_wrote(tree):
    shutil.copytree(tree / "example/labelled", tree / "example/labels")  # as `make demo` calls it
    run = subprocess.run(
        [sys.executable, ROOT / "downstream_tasks" / "demo_report.py", "--output_dir", tree / "example"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    metrics = pd.read_csv(tree / "example/metrics.csv")
    assert list(metrics) == ["task", "method", "metric", "value"]
    assert {"pre-training", "labels", "annotation", "clustering", "integration"} == set(metrics["task"])
    page = (tree / "example/report.html").read_text(encoding="utf8")
    accuracy = metrics.query("task == 'annotation' and method == 'scDMC fine-tuned' and metric == 'accuracy'")[
        "value"
    ].item()
    assert f"accuracy {accuracy:.3f}" in page
    assert page.count("data:image/png;base64,") == 11
    assert str(tree / "example/report.html") in run.stdout
