r"""From modes of a kernel to embeddings: the final ones and those along training."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, UInt32

from sslstep import _check, gram, linear
from sslstep._linalg import matmul, rounding
from sslstep.kernel_pca._modes import (
    SOLVERS,
    KernelModes,
    contrastive_modes,
    require_dim,
)

__all__ = [
    "align",
    "embed",
    "embed_training",
    "final_singular_values",
    "gradient_flow_ssl",
    "learned_kernel",
]


def final_singular_values(modes: KernelModes) -> Float[Array, " k"]:
    r"""The singular values at the end of training: :math:`\gamma_j^{-1/2}`, or 0 (Eq. 24).

    Their squares sum to :math:`\|f\|_{\mathcal K}^2`, the least RKHS norm among embeddings of zero
    loss (Eq. 25).

    Args:
        modes: of the kernel.

    Returns:
        Shape ``(k,)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> kernel = jnp.diag(jnp.array([16.0, 1.0, 16.0, 1.0]))
        >>> kernel_pca.final_singular_values(kernel_pca.contrastive_modes(kernel, 2)).round(4)
        Array([0.5, 2. ], dtype=float32)
    """
    gammas = modes.eigenvalues
    # As much as contrastive_modes counts as zero: its eigenproblems are small or in float64, and
    # so better than the one of size m that linear.top_spectral has to reckon with.
    positive = gammas > rounding(gammas, 10)
    return jnp.where(positive, jnp.where(positive, gammas, 1) ** -0.5, 0)


def embed(
    modes: KernelModes,
    k_test_train: Float[ArrayLike, "n_test N"],
    singular_values: Float[ArrayLike, "... k"] | None = None,
    rotation: Float[ArrayLike, "k k"] | None = None,
) -> Float[Array, "... n_test k"]:
    r"""Embeddings of new points (Eqs. 24 and 40).

    .. math:: f(x) = U \,\mathrm{diag}(s_1, \dots, s_d)\, C^\top k(x),
        \qquad k(x) = [\mathcal K(x, X), \mathcal K(x, X')]

    Args:
        modes: of the kernel over the N = 2n training samples.
        k_test_train: k(x) of each new point as a row, shape ``(n_test, 2n)``: see
            :func:`sslstep.gram.to_pairs`.
        singular_values: s at one or more times, shape ``(..., k)``, such as
            :func:`sslstep.dynamics.singular_value` of the modes' eigenvalues; default: those at the
            end of training, :func:`final_singular_values`.
        rotation: U, from :func:`align`; default: the identity. It changes no inner product.

    Returns:
        The embeddings as rows, shape ``(..., n_test, k)``, in the finest type of all that is given.

    Raises:
        ValueError: if shapes do not fit or values are not finite.
        TypeError: if ``modes`` are not :class:`KernelModes`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> both = jnp.concatenate([x, x])
        >>> modes = kernel_pca.contrastive_modes(both @ both.T, 1)
        >>> jnp.abs(kernel_pca.embed(modes, jnp.array([[1.0, 5.0]]) @ both.T)).round(4)
        Array([[0.7071]], dtype=float32)
    """
    _require_modes(modes)
    size, _ = _check.shape_of(modes.coefficients)
    _, columns = _check.require_matrix("k_test_train", k_test_train, f"(n_test, {size})")
    if columns != size:
        raise ValueError(
            f"k_test_train must have shape (n_test, {size}), one column for each training sample "
            f"[X, X'], got {_check.shape_of(k_test_train)}."
        )
    _check.require_finite("k_test_train", k_test_train)
    k_test_train, coefficients = _check.as_floats(k_test_train, modes.coefficients)
    features = matmul(k_test_train, coefficients)
    return _scale(modes, features, singular_values, rotation)


def embed_training(
    modes: KernelModes,
    singular_values: Float[ArrayLike, "... k"] | None = None,
    rotation: Float[ArrayLike, "k k"] | None = None,
) -> Float[Array, "... N k"]:
    r"""Embeddings of the training samples themselves, from the modes alone (Eq. 49).

    .. math:: f(X) = U \,\mathrm{diag}(s)\, C^\top \tilde K

    Args:
        modes: of the kernel over the training samples.
        singular_values: as for :func:`embed`.
        rotation: as for :func:`embed`.

    Returns:
        Shape ``(..., N, k)``: the rows of X, then those of X', in the kernel's order.

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if ``modes`` are not :class:`KernelModes`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import kernel_pca, linear
        >>> kernel = jnp.diag(jnp.array([16.0, 1.0, 16.0, 1.0])) + 0.5
        >>> z, z_prime = jnp.split(
        ...     kernel_pca.embed_training(kernel_pca.contrastive_modes(kernel, 2)), 2
        ... )
        >>> linear.cross_correlation(z, z_prime).round(3) + 0.0
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    _require_modes(modes)
    return _scale(modes, modes.images, singular_values, rotation)


def align(initial: Float[ArrayLike, "N d"], modes: KernelModes) -> linear.Aligned:
    r"""The aligned start that small initial embeddings are equivalent to (Eq. 42).

    .. math:: U \,\mathrm{diag}(s(0)) = \mathcal A(F_0 C)

    with :math:`F_0` the initial embeddings and :math:`\mathcal A` the alignment of Definition 4.5:
    the d x d matrix :math:`F_0 C` is what :math:`W(0) V_d` is to a linear model
    (:func:`sslstep.linear.align`).

    Args:
        initial: embeddings of ``[X, X']`` at initialisation, as rows, shape ``(2n, d)``.
        modes: at least d of them, over the same samples.

    Returns:
        :class:`sslstep.linear.Aligned`.

    Raises:
        ValueError: if shapes do not fit or values are not finite.
        TypeError: if ``modes`` are not :class:`KernelModes`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> x = jax.random.normal(jax.random.key(0), (20, 4))
        >>> modes = kernel_pca.contrastive_modes(x @ x.T, 2)
        >>> kernel_pca.align(1e-3 * x[:, :2], modes).rotation.shape
        (2, 2)
    """
    _require_modes(modes)
    size, available = _check.shape_of(modes.coefficients)
    rows, dim = _check.require_matrix("initial", initial, f"({size}, d)")
    if rows != size or dim > available:
        raise ValueError(
            f"initial must have shape ({size}, d) with d at most {available}, the number of modes, "
            f"got {(rows, dim)}."
        )
    _check.require_finite("initial", initial)
    initial, coefficients = _check.as_floats(initial, modes.coefficients[:, :dim])
    images = matmul(initial.T, coefficients)
    # In the modes' own coordinates: their functions are orthonormal, as eigenvectors of Γ are.
    basis = linear.Modes(modes.eigenvalues[:dim], jnp.eye(dim, dtype=images.dtype))
    return linear.align(images, basis)


def learned_kernel(
    modes: KernelModes,
    k_a: Float[ArrayLike, "n_a N"],
    k_b: Float[ArrayLike, "n_b N"] | None = None,
    singular_values: Float[ArrayLike, " k"] | None = None,
) -> Float[Array, "n_a n_b"]:
    r"""The kernel that has been learned, :math:`f(x)^\top f(x')` (Section 5.2).

    Args:
        modes: of the kernel over the training samples.
        k_a: the kernel between new points and training samples, shape ``(n_a, 2n)``.
        k_b: the same for other points, shape ``(n_b, 2n)``; default: ``k_a``.
        singular_values: as for :func:`embed`, at one time.

    Returns:
        Shape ``(n_a, n_b)``, of rank d.

    Raises:
        ValueError, TypeError: as :func:`embed`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> kernel = jnp.diag(jnp.array([16.0, 1.0, 16.0, 1.0]))
        >>> modes = kernel_pca.contrastive_modes(kernel, 1)
        >>> kernel_pca.learned_kernel(modes, kernel).round(3).diagonal()
        Array([2., 0., 2., 0.], dtype=float32)
    """
    if singular_values is not None and len(_check.shape_of(singular_values)) != 1:
        raise ValueError(
            f"singular_values must be those of one time, of shape (k,), got shape "
            f"{_check.shape_of(singular_values)}."
        )
    a = embed(modes, k_a, singular_values)
    b = a if k_b is None else embed(modes, k_b, singular_values)
    return matmul(a, b.T)


def gradient_flow_ssl(
    kernel_fn: gram.KernelFn | gram.TwoTowers,
    x: Real[ArrayLike, "n ..."],
    x_prime: Real[ArrayLike, "n ..."],
    dim: int,
    *,
    initial: Float[ArrayLike, "N d"] | None = None,
    init_scale: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] = 0.0,
    solver: Literal["auto", "krylov", "dense"] = "auto",
    store_kernel: bool = True,
    batch_size: int = 1000,
    progress: bool | None = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
) -> Callable[..., Float[Array, "... n_out d"]]:
    r"""Predicts the embeddings of any point at any time of training, without training.

    The counterpart of ``neural_tangents.predict`` for the simplified Barlow Twins loss (Eq. 1) by
    gradient flow: Eq. 40 from a small start (Eq. 42), and Eq. 24 at the end. It puts together
    :func:`sslstep.gram.pairs`, :func:`contrastive_modes`, :func:`align` and :func:`embed`; use
    those to look at the modes.

    Args:
        kernel_fn: of the model, as in :mod:`sslstep.ntk.infinite`; any function of
            ``(x1, x2=None)``, also neural_tangents' own; or :class:`sslstep.gram.TwoTowers`.
        x: one view of each sample, shape ``(n, ...)``.
        x_prime: the other view, in the same order.
        dim: the embedding dimension d ≤ n.
        initial: embeddings of ``[X, X']`` at initialisation, shape ``(2n, d)``. What is predicted
            starts from the aligned start that they are equivalent to, not from themselves: at t = 0
            it differs from ``initial`` by about the size of ``initial``, and at any time by as
            much as :func:`sslstep.linear.alignment_exponent` of their scale. :func:`flow` is exact.
        init_scale: instead of ``initial``, the α of weights :math:`\mathcal N(0, \alpha^2)` on the
            kernel's features, for typical :math:`s_j(0)` (Eq. 21) and U = I.
        learning_rate: 0 for gradient flow, otherwise the step of gradient descent: see
            :func:`sslstep.dynamics.singular_value`.
        solver: as for :func:`contrastive_modes`.
        store_kernel: whether K̃ is stored, :math:`4 n^2` numbers, or computed anew in each product
            with it: slower, in little memory.
        batch_size: of the blocks in which the kernel is computed.
        progress: whether to show bars; None shows them on a terminal.
        key: as for :func:`contrastive_modes`.

    Returns:
        ``predict_fn(t=None, x_test=None, *, view=None)``, pure. ``t``, of any shape ``(...)``, is
        effective time ≥ 0, and None is the end of training. ``x_test`` are new points, and None the
        training pairs, X then X'. ``view`` is 0 or 1 with two towers: whose points ``x_test`` are.
        It gives shape ``(..., n_test, d)``, or ``(..., 2n, d)`` on the training pairs.

    Raises:
        ValueError, TypeError: as the functions it puts together.
        ValueError: from ``predict_fn``, if t is given where neither ``initial`` nor ``init_scale``
            was, or has the shape of samples and ``x_test`` is missing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, linear
        >>> def kernel_fn(x1, x2=None):
        ...     return jnp.exp(x1 @ (x1 if x2 is None else x2).T)
        >>> x, noise = jax.random.normal(jax.random.key(0), (2, 30, 3))
        >>> x_prime = x + 0.1 * noise
        >>> predict_fn = kernel_pca.gradient_flow_ssl(kernel_fn, x, x_prime, 2, init_scale=1e-4)
        >>> predict_fn(jnp.array([0.0, 10.0]), x[:5]).shape
        (2, 5, 2)
        >>> z, z_prime = jnp.split(predict_fn(), 2)
        >>> bool(jnp.allclose(linear.cross_correlation(z, z_prime), jnp.eye(2), atol=1e-3))
        True
    """
    # Before the kernel, which may take hours.
    if initial is not None and init_scale is not None:
        raise ValueError("give initial or init_scale, not both.")
    num_pairs = _check.shape_of(x)[0] if _check.shape_of(x) else 0
    if initial is not None and _check.shape_of(initial) != (2 * num_pairs, dim):
        raise ValueError(
            f"initial must have shape {(2 * num_pairs, dim)}, (2n, dim), got "
            f"{_check.shape_of(initial)}."
        )
    if init_scale is not None:
        _check.require_at_least("init_scale", init_scale, 0.0)
    require_dim(dim, num_pairs)
    _check.require_one_of("solver", solver, SOLVERS)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if store_kernel:
        kernel = gram.pairs(kernel_fn, x, x_prime, **options)
        modes = contrastive_modes(kernel, dim, solver=solver, key=key)
    else:
        matmul = gram.pairs_operator(kernel_fn, x, x_prime, **options)
        modes = contrastive_modes(matmul, dim, solver=solver, num_pairs=num_pairs, key=key)
    aligned = None
    if initial is not None:
        aligned = align(initial, modes)
    elif init_scale is not None:
        start = linear.initial_singular_values(init_scale, dim).astype(modes.eigenvalues.dtype)
        aligned = linear.Aligned(jnp.eye(dim, dtype=start.dtype), start)

    sample_shape = _check.shape_of(x)[1:]

    def predict_fn(
        t: Real[ArrayLike, "..."] | None = None,
        x_test: Real[ArrayLike, "n_test ..."] | None = None,
        *,
        view: Literal[0, 1] | None = None,
    ) -> Float[Array, "... n_out d"]:
        """Embeddings at effective time t ≥ 0, None for the end of training.

        Of new points ``x_test``, shape (..., n_test, d), the dimensions of t first; of the training
        pairs [X, X'], (..., 2n, d), where it is None. ``view`` says which of TwoTowers' kernels.
        """
        if t is not None and x_test is None and _check.shape_of(t)[1:] == sample_shape != ():
            raise ValueError(
                f"t, of shape {_check.shape_of(t)}, looks like samples: give "
                f"predict_fn(None, x_test) for the end of training, or predict_fn(t, x_test)."
            )
        if t is None:
            values = final_singular_values(modes)
        elif aligned is None:
            raise ValueError("embeddings at a time t need initial or init_scale.")
        else:
            values = linear.singular_value(
                jnp.asarray(t)[..., None],
                modes.eigenvalues,
                aligned.singular_values,
                learning_rate=learning_rate,
            )
        rotation = None if aligned is None else aligned.rotation
        if x_test is None:
            return embed_training(modes, values, rotation)
        k_test_train = gram.to_pairs(kernel_fn, x_test, x, x_prime, view=view, **options)
        return embed(modes, k_test_train, values, rotation)

    return predict_fn


def _require_modes(modes: KernelModes) -> None:
    if not isinstance(modes, KernelModes):
        raise TypeError(
            f"modes must be KernelModes, as contrastive_modes gives them, got a "
            f"{type(modes).__name__}."
        )


def _scale(
    modes: KernelModes,
    features: Array,
    singular_values: ArrayLike | None,
    rotation: ArrayLike | None,
) -> Array:
    if singular_values is None:
        singular_values = final_singular_values(modes)
    _check.require_finite("singular_values", singular_values)
    features, values = _check.as_floats(features, singular_values)
    num = features.shape[1]
    if values.ndim == 0 or values.shape[-1] > num:
        raise ValueError(
            f"singular_values must have shape (..., k) with k at most {num}, the number of modes, "
            f"got {values.shape}."
        )
    features = features[:, : values.shape[-1]]
    shape = (*(1,) * (values.ndim - 1), *features.shape)
    scaled = features.reshape(shape) * values[..., None, :]
    if rotation is None:
        return scaled
    _check.require_finite("rotation", rotation)
    scaled, rotation = _check.as_floats(scaled, rotation)
    if rotation.shape != (values.shape[-1],) * 2:
        raise ValueError(
            f"rotation must have shape {(values.shape[-1],) * 2}, got {rotation.shape}."
        )
    return matmul(scaled, rotation.T)
