"""The vocabulary: tokens and their ids (docs/method.md, "Vocabulary")."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.resources import resource_folder

SPECIAL_TOKENS = ("<pad>", "<mask>", "<cls>", "<eos>")


PAD_TOKEN_ID, MASK_TOKEN_ID, CLS_TOKEN_ID, EOS_TOKEN_ID = range(4)


# A version (".18") or the mark of the Y copy of a pseudo-autosomal gene is no part of the id.
ENSEMBL_ID = re.compile(r"^(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?$")


TOKEN_FILES = resource_folder("token_files")


DEFAULT_TOKEN_DICTIONARY_FILE = TOKEN_FILES / "token_ids_60534.json"


DEFAULT_GENE_TABLE_FILE = TOKEN_FILES / "gene_table.csv.gz"


def ensembl_id(name: str) -> str | None:
    """The Ensembl gene id in a name, upper-case and without version; None where the name is none."""
    match = ENSEMBL_ID.match(name.upper())
    return match.group(1) if match else None


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids: four special tokens, then Ensembl gene ids.

    Attributes
    ----------
    token_ids
        Token -> id; the ids are 0 .. len - 1.
    source
        Where it was read from, for error messages.
    """

    token_ids: Mapping[str, int]
    source: str

    def __post_init__(self) -> None:
        for expected, token in enumerate(SPECIAL_TOKENS):
            if self.token_ids.get(token) != expected:
                raise ScDMCError(
                    f"{self.source}: token {token} should have id {expected}, not {self.token_ids.get(token)}"
                )
        if sorted(self.token_ids.values()) != list(range(len(self.token_ids))):
            raise ScDMCError(
                f"{self.source}: the token ids should be the numbers 0 to {len(self.token_ids) - 1}, once each"
            )

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def tokens(self) -> np.ndarray:
        """Tokens in the order of their ids, shape (vocab_size,)."""
        tokens = np.empty(len(self), dtype=object)
        tokens[list(self.token_ids.values())] = list(self.token_ids)
        return tokens

    @cached_property
    def sha256(self) -> str:
        """Hash of the tokens in the order of their ids; the layout of the file does not change it."""
        return hashlib.sha256("\n".join(self.tokens).encode("utf8")).hexdigest()

    def save(self, path: Path) -> None:
        """Write the vocabulary as a JSON object token -> id, in the order of the ids."""
        write_json(path, {token: token_id for token_id, token in enumerate(self.tokens)})


def load_vocabulary(path: Path | None = None) -> Vocabulary:
    """Read a vocabulary.

    Parameters
    ----------
    path
        JSON object token -> id; without it, the one that ships with scDMC.

    Raises
    ------
    ScDMCError
        If the file is absent, not JSON, or its ids are not those of a vocabulary.
    """
    path = Path(path or DEFAULT_TOKEN_DICTIONARY_FILE)
    content = read_json_object(path, "vocabulary")
    wrong = [token for token, token_id in content.items() if type(token_id) is not int]
    if wrong:
        raise ScDMCError(f"{path}: the ids of {wrong[:3]} are not integers; a vocabulary maps token -> id")
    return Vocabulary(content, source=str(path))


def require_same_vocabulary(expected: str, found: str, expected_owner: str, found_owner: str) -> None:
    """Refuse to combine what was made with two vocabularies: the same token id would mean different genes.

    Parameters
    ----------
    expected, found
        :attr:`Vocabulary.sha256` of the two.
    expected_owner, found_owner
        What they belong to, for the message.

    Raises
    ------
    ScDMCError
        If the two differ.
    """
    if expected != found:
        raise ScDMCError(
            f"{found_owner} was made with another vocabulary ({found[:12]}) than {expected_owner} ({expected[:12]}); "
            "name the token_ids.json that belongs to both with --token_dictionary_file, "
            "or tokenize the counts again with it"
        )
