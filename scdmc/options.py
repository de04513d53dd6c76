"""Words that flags and functions of several wings accept. Nothing is imported here, so that ``--help`` is quick."""

STREAMS = ("rank", "expression", "both")


POOLINGS = ("cls", "mean", "weighted")


BACK_ENDS = ("auto", "flash", "flex", "sdpa", "eager")


DTYPES = ("float32", "bfloat16")


EXPRESSION_INPUTS = ("none", "value")
