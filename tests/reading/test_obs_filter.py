"""Leaving cells out by a column of obs."""

import numpy as np
import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.reading.obs_filter import keep_cells, parse_leave_out, require_known_values


@pytest.fixture
def obs():
    return pd.DataFrame({"dataset": pd.Categorical(["a", "b", "c", "a", None]), "donor": [1, 2, 3, 4, 5]})


def test_rules_of_one_column_add_up():
    assert parse_leave_out(["dataset=a,b", "donor=3", "dataset=b, c"]) == {"dataset": ["a", "b", "c"], "donor": ["3"]}
    assert parse_leave_out([]) == {}


def test_a_value_may_contain_an_equals_sign():
    assert parse_leave_out(["marker=CD3=high"]) == {"marker": ["CD3=high"]}


@pytest.mark.parametrize("rule", ["dataset", "dataset=", "=a", "dataset=a,,b", ""])
def test_a_rule_without_column_or_value_is_an_error(rule):
    with pytest.raises(ScDMCError, match="write COLUMN=VALUE"):
        parse_leave_out([rule])


def test_cells_of_any_rule_are_left_out_and_missing_values_stay(obs):
    assert keep_cells(obs, parse_leave_out(["dataset=a"])).tolist() == [False, True, True, False, True]
    assert keep_cells(obs, parse_leave_out(["dataset=a", "donor=2"])).tolist() == [False, False, True, False, True]
    np.testing.assert_array_equal(keep_cells(obs, {}), np.ones(5, dtype=bool))


def test_a_file_without_the_column_keeps_its_cells_if_another_file_has_it(obs):
    other = pd.DataFrame({"donor": [1]})
    rules = parse_leave_out(["dataset=a"])
    require_known_values(rules, {"one.h5ad": obs, "other.h5ad": other})
    assert keep_cells(other, rules).all()


def test_a_column_or_a_value_that_no_file_has_is_an_error(obs):
    with pytest.raises(ScDMCError, match=r"no column 'study' in one.h5ad; it has \['dataset', 'donor'\]"):
        require_known_values({"study": ["a"]}, {"one.h5ad": obs})
    with pytest.raises(ScDMCError, match=r"no cell has dataset 'A'; there are a, b, c$"):
        require_known_values({"dataset": ["a", "A"]}, {"one.h5ad": obs})
