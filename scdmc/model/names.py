"""Names of the files in a model folder."""

import re

CONFIG_FILE = "config.json"


TOKEN_IDS_FILE = "token_ids.json"


GENE_MEDIANS_FILE = "gene_medians.json"


TOKENIZATION_FILE = "tokenization.json"


CARD_FILE = "README.md"


CARD_FIGURE = "loss_curves.png"


# The model's code for transformers' Auto classes (scdmc/model/standalone.py).
MODELING_FILE = "modeling_scdmc.py"


WEIGHTS_FILE = "model.safetensors"


# Which of several files holds each tensor, as transformers writes it.
INDEX_FILE = "model.safetensors.index.json"


PUBLISHED_WEIGHTS_FILE = "pytorch_model.bin"


# All files of weights of a model folder.
WEIGHTS_NAME = re.compile(r"model(-\d{5}(-of-\d{5})?)?\.safetensors(\.index\.json)?|pytorch_model\.bin")


# Only in the folder of a classifier.
CALIBRATION_FILE = "calibration.json"


TRAINING_GENES_FILE = "training_genes.json"


# Only in the folder of a classifier of views: its words and numbers, and its tensors.
VIEWS_FILE, VIEW_TENSORS_FILE = "views.json", "views.safetensors"


# There, too, where a fine-tuned model is one of the views: its weights.
FINE_TUNED_FILE = "finetuned.safetensors"
