"""Public data sets that are fetched: wheels, islets, regulons."""
