# Two commands for a start: `make demo` and `make test`. Both make .venv first if there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
DEMO := $(CURDIR)/demo_output
SMALL := $(CURDIR)/models/scDMC-small
# Where the demo's model starts; `make demo START=random` shows what it is without the shipped weights.
START ?= shipped
START_shipped := --model scDMC-small
START_random := --hidden_size 64 --num_hidden_layers 2 --num_attention_heads 4 --intermediate_size 128 \
	--initializer_range 0.06 --expression_input value

# What `make reproduce` makes, by which model. MODEL=new pre-trains the paper's on 2 million cells first, on $(GPUS) GPUs.
PAPER := $(CURDIR)/paper_output
PAPER_SETS := zheng68k ms myeloid pbmc10k bmmc immune
MODEL ?= scDMC-small
GPUS ?= 1
# A folder is one from here on, not from where a script is called.
MODEL_AT_HAND = $(if $(filter new,$(MODEL)),scDMC-small,$(if $(wildcard $(MODEL)),$(abspath $(MODEL)),$(MODEL)))
HOURS_OF_NEW := These are the hours of scDMC-small. The model of the paper has 12 layers: its tables take many times as long. \
	How long its pre-training takes is said after the Census has come.
PAPER_MODEL = $(if $(filter new,$(MODEL)),$(PAPER)/pretrained,$(MODEL_AT_HAND))

.PHONY: demo reproduce pretrained-model test faults lint format lock audit licences clean

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet -e ".[test]"
	touch $@

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# What `make test` does in small, in full (docs/reliability.md): 1,000 kill points and 1,000 odd files. Hours on two cores.
faults: $(VENV)/installed
	SCDMC_KILL_POINTS=1000 SCDMC_ODD_FILES=1000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults \
		tests/cli/test_nonsense.py --numprocesses 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A tool of their own for each, beside the environment that is tested.
build/%/installed:
	$(PYTHON) -m venv build/$*
	build/$*/bin/pip install --quiet $*
	touch $@

# Everything that requirements.txt pulls in, with hashes, for all systems and Python 3.11 and later.
lock: build/uv/installed
	build/uv/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock requirements.txt

# Known vulnerabilities of the locked packages; needs the network.
audit: build/pip-audit/installed
	build/pip-audit/bin/python .ci/audit.py

licences: $(VENV)/installed
	$(BIN)/python .ci/licences.py

# The main job, end to end, on 1,937 real cells: the scripts that the README documents, one after the other.
demo: $(VENV)/installed
	$(if $(START_$(START)),,$(error START is shipped or random, not '$(START)'))
	rm -rf $(DEMO)
	cd prepare && $(BIN)/python -u fetch_demo_data.py --output_dir $(DEMO)/counts --pair_dir $(DEMO)/pair
	cd downstream_tasks && $(BIN)/python -u annotate.py --data_path $(DEMO)/pair/new.h5ad --reference $(DEMO)/pair/labelled.h5ad \
		--label_key cell_type --output_dir $(DEMO)/labels
	cd prepare && $(BIN)/python -u split_cells.py --data_path $(DEMO)/counts/islets.h5ad \
		--output_file $(DEMO)/split.csv --label_key cell_type
	cd tokenizer && $(BIN)/python -u tokenizer_combine.py --data_path $(DEMO)/counts \
		--output_dir $(DEMO)/tokenized --output_prefix islets \
		--token_dictionary_file $(SMALL)/token_ids.json --gene_median_file $(SMALL)/gene_medians.json \
		--obs_columns cell_type batch
	cd pretrain && $(BIN)/python -u scDMC_pretrain.py --data_path $(DEMO)/tokenized/islets.parquet \
		--output_dir $(DEMO)/pretrained --split_file $(DEMO)/split.csv --max_length 256 \
		--view_dropout 0.75 --expression_order random --momentum 0.97 \
		--batch_size 32 --learning_rate 3e-3 --max_steps 150 --evaluate_every 25 --save_every 50 $(START_$(START))
	cd downstream_tasks && $(BIN)/python -u downstream_tasks.py --model $(DEMO)/pretrained \
		--data_path $(DEMO)/counts/islets.h5ad --output_dir $(DEMO)/annotation \
		--split_file $(DEMO)/split.csv --label_key cell_type
	cd downstream_tasks && $(BIN)/python -u annotate.py --model $(DEMO)/annotation \
		--data_path $(DEMO)/counts/islets.h5ad --output_file $(DEMO)/annotated.h5ad
	cd downstream_tasks && $(BIN)/python -u embed.py --model $(DEMO)/pretrained \
		--data_path $(DEMO)/counts/islets.h5ad --output_file $(DEMO)/embedded.h5ad
	cd downstream_tasks && $(BIN)/python -u cluster.py --model $(DEMO)/pretrained \
		--data_path $(DEMO)/counts/islets.h5ad --output_dir $(DEMO)/clustering --label_key cell_type
	cd downstream_tasks && $(BIN)/python -u describe.py --model scDMC-small-text \
		--data_path $(DEMO)/clustering/clustered.h5ad --group_key scDMC_cluster --output_dir $(DEMO)/described
	cd downstream_tasks && $(BIN)/python -u integration.py --model $(DEMO)/pretrained \
		--data_path $(DEMO)/tokenized/islets.parquet --output_dir $(DEMO)/integration \
		--batch_key batch --label_key cell_type
	cd downstream_tasks && $(BIN)/python -u demo_report.py --output_dir $(DEMO)

# The paper's tables from nothing: the hours, then the data, the model and the tables. What is there is not made again.
reproduce: $(VENV)/installed
	cd benchmarks && $(BIN)/python -u paper.py --model $(MODEL_AT_HAND) --data_dir $(PAPER)/data \
		--output_dir $(PAPER)/tables --dry_run
	$(if $(filter new,$(MODEL)),@echo "$(HOURS_OF_NEW)")
	cd prepare && for set in $(PAPER_SETS); do test -f $(PAPER)/data/$$set.h5ad || \
		$(BIN)/python -u paper_data.py --dataset $$set --output_dir $(PAPER)/data --download || exit; done
	$(if $(filter new,$(MODEL)),$(MAKE) pretrained-model)
	cd benchmarks && $(BIN)/python -u paper.py --model $(PAPER_MODEL) --data_dir $(PAPER)/data --output_dir $(PAPER)/tables

# The dry run says first how long it takes on this machine. A run that was cut off goes on.
pretrained-model: $(VENV)/installed
	test -f $(PAPER)/census/census_2m.report.json || \
		$(BIN)/python -u prepare/paper_data.py --dataset census_2m --output_dir $(PAPER)/census --download
	test -d $(PAPER)/pretrained || PYTHON=$(BIN)/python GPUS=$(GPUS) bash pretrain/configs/published.sh \
		--dataset_path $(PAPER)/census --output_dir $(PAPER)/pretrained --dry_run
	test -f $(PAPER)/pretrained/model.safetensors || PYTHON=$(BIN)/python GPUS=$(GPUS) bash pretrain/configs/published.sh \
		--dataset_path $(PAPER)/census --output_dir $(PAPER)/pretrained $$(test ! -d $(PAPER)/pretrained || echo --resume)

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache
