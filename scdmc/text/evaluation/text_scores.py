"""How near texts are to what should have been said, by their words.

Source: docs/text.md, "Captions: scores".
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

# Runs of so many words count, and all shorter ones.
LONGEST_RUN = 4


def words_of(text: str) -> list[str]:
    """Words and punctuation marks of a text, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def bleu(said: Sequence[str], true: Sequence[str]) -> float:
    """How many runs of one to four words of all texts are right, less where the texts are too short; 0 to 1.

    Of a whole set of texts, each with one reference, not smoothed (Papineni et al. 2002, ACL).

    Parameters
    ----------
    said, true
        The texts, and what should have been said, in the same order.
    """
    right, all_runs = np.zeros(LONGEST_RUN), np.zeros(LONGEST_RUN)
    said_words, true_words = ([words_of(text) for text in texts] for texts in (said, true))
    for own, reference in zip(said_words, true_words, strict=True):
        for place in range(LONGEST_RUN):
            runs, known = (_runs(words, place + 1) for words in (own, reference))
            right[place] += (runs & known).total()
            all_runs[place] += runs.total()
    if not right.all():
        return 0.0
    lengths = [sum(map(len, words)) for words in (said_words, true_words)]
    too_short = min(0.0, 1 - lengths[1] / lengths[0])
    return float(np.exp(too_short + np.log(right / all_runs).mean()))


def _runs(words: Sequence[str], length: int) -> Counter:
    return Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def rouge_l(said: str, true: str) -> float:
    """F1 of the words that two texts share in the same order (Lin 2004, ROUGE-L); 0 for a text without words."""
    own, reference = words_of(said), words_of(true)
    shared = _longest_shared(own, reference)
    return 2 * shared / (len(own) + len(reference)) if shared else 0.0


def _longest_shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, another in enumerate(other):
            row.append(before[place] + 1 if word == another else max(row[-1], before[place + 1]))
    return row[-1]
