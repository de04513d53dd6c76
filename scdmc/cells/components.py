"""Principal components of sparse values, by the solver that suits their size.

Of few cells or genes all components are computed: the iteration that finds some of many needs as many steps there, and
does not give the same bits twice.
"""

import numpy as np
import scipy.sparse
from sklearn.decomposition import PCA

FEW_OF_COMPONENTS = 500


def fitted_components(expression: scipy.sparse.csr_matrix, n_components: int, seed: int) -> PCA:
    """Principal components of sparse values, fitted.

    Parameters
    ----------
    expression
        Shape (n_cells, n_genes).
    n_components
        Fewer than cells and genes.
    seed
        Of the iteration.
    """
    pca, values = _suited(expression, n_components, seed)
    return pca.fit(values)


def component_values(expression: scipy.sparse.csr_matrix, n_components: int, seed: int) -> np.ndarray:
    """The cells in principal components of their own, shape (n_cells, n_components); see :func:`fitted_components`."""
    pca, values = _suited(expression, n_components, seed)
    return pca.fit_transform(values)


def _suited(
    expression: scipy.sparse.csr_matrix, n_components: int, seed: int
) -> "tuple[PCA, scipy.sparse.csr_matrix | np.ndarray]":
    """What finds the components, and the values as it reads them."""
    if expression.shape[1] <= FEW_OF_COMPONENTS:
        return PCA(n_components, svd_solver="covariance_eigh"), expression
    if expression.shape[0] <= FEW_OF_COMPONENTS:
        return PCA(n_components, svd_solver="full"), expression.toarray()
    return PCA(n_components, svd_solver="arpack", random_state=seed), expression
