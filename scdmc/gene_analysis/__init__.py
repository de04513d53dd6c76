"""What a model knows of genes: states, modules, attention, networks, perturbation."""
