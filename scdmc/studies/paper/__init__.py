"""The tables of the paper: its tasks on its data sets, our rows beside baselines and published figures."""
