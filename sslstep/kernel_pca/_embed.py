r"""Embeddings of a kernel machine, during and after training, from the modes of its kernel."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, UInt32

from sslstep import _check, gram, linear
from sslstep._linalg import matmul, rounding
from sslstep.kernel_pca._modes import SOLVERS, KernelModes, contrastive_modes, require_dim


def final_singular_values(modes: KernelModes) -> Float[Array, " k"]:
    r"""Singular values at the end of training: :math:`\gamma_j^{-1/2}`, or 0 if γ ≤ 0 (Eq. 24).

    Their squares sum to :math:`\|f\|_{\mathcal K}^2`, the smallest squared RKHS norm of embeddings
    with zero loss (Eq. 25).

    Args:
        modes: the modes of the kernel, from :func:`contrastive_modes`.

    Returns:
        The singular values, shape ``(k,)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> kernel = jnp.diag(jnp.array([16.0, 1.0, 16.0, 1.0]))
        >>> kernel_pca.final_singular_values(kernel_pca.contrastive_modes(kernel, 2)).round(4)
        Array([0.5, 2. ], dtype=float32)
    """
    gammas = modes.eigenvalues
    # The threshold of contrastive_modes. Its eigenproblems are small or in float64, so the
    # threshold is lower than that of linear.top_spectral.
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
        modes: the modes of the kernel over the N = 2n training samples; C holds their coefficients.
        k_test_train: k(x) of each new point as a row, shape ``(n_test, 2n)``: see
            :func:`sslstep.gram.to_pairs`.
        singular_values: s at one or more times, shape ``(..., k)``, such as
            :func:`sslstep.dynamics.singular_value` of the modes' eigenvalues. Default: those at the
            end of training, :func:`final_singular_values`.
        rotation: U, from :func:`align`; default: the identity. Inner products of embeddings do not
            depend on it.

    Returns:
        The embeddings as rows, shape ``(..., n_test, k)``, in the widest dtype of the arguments.

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
    what = ", one column for each training sample [X, X']"
    _check.require_matrix("k_test_train", k_test_train, f"(n_test, {size})", what, columns=size)
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
        modes: the modes of the kernel over the N training samples.
        singular_values: s at one or more times, shape ``(..., k)``. Default: those at the end of
            training.
        rotation: U, from :func:`align`; default: the identity.

    Returns:
        The embeddings as rows, first of X, then of X', shape ``(..., N, k)``.

    Raises:
        ValueError: if shapes do not fit or values are not finite.
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
    r"""Aligned start that is equivalent to small initial embeddings (Eq. 42).

    .. math:: U \,\mathrm{diag}(s(0)) = \mathcal A(F_0 C)

    where :math:`F_0`, shape (d, 2n), holds the initial embeddings, C the modes' coefficients, and
    :math:`\mathcal A` is the alignment of Definition 4.5. The d x d matrix :math:`F_0 C` takes the
    place of :math:`W(0) V_d` of a linear model (:func:`sslstep.linear.align`).

    Args:
        initial: embeddings of ``[X, X']`` at initialisation, as rows, shape ``(2n, d)``.
        modes: at least d modes of the kernel over the same samples.

    Returns:
        :class:`sslstep.linear.Aligned`, with the rotation U and the singular values s(0).

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
    # In the coordinates of the modes, whose functions are orthonormal like eigenvectors of Γ.
    basis = linear.Modes(modes.eigenvalues[:dim], jnp.eye(dim, dtype=images.dtype))
    return linear.align(images, basis)


def learned_kernel(
    modes: KernelModes,
    k_a: Float[ArrayLike, "n_a N"],
    k_b: Float[ArrayLike, "n_b N"] | None = None,
    singular_values: Float[ArrayLike, " k"] | None = None,
) -> Float[Array, "n_a n_b"]:
    r"""The learned kernel: inner products of embeddings, :math:`f(x)^\top f(x')` (Section 5.2).

    Args:
        modes: the modes of the kernel over the 2n training samples.
        k_a: the kernel between points x and the training samples, shape ``(n_a, 2n)``.
        k_b: the kernel between points x' and the training samples, shape ``(n_b, 2n)``; default:
            ``k_a``.
        singular_values: s at one time, shape ``(k,)``. Default: those at the end of training.

    Returns:
        The inner products, shape ``(n_a, n_b)``, a matrix of rank k at most.

    Raises:
        ValueError: if shapes do not fit or values are not finite.
        TypeError: if ``modes`` are not :class:`KernelModes`.

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
    r"""Return a function that predicts the embeddings of any point at any time, without training.

    The prediction is for gradient flow on the simplified Barlow Twins loss (Eq. 1), like
    ``neural_tangents.predict`` for supervised losses. It is Eq. 40 from a small start (Eq. 42), and
    Eq. 24 at the end of training. The function combines :func:`sslstep.gram.pairs`,
    :func:`contrastive_modes`, :func:`align` and :func:`embed`; call those to inspect the modes.

    Args:
        kernel_fn: the model's kernel function, from :mod:`sslstep.ntk.infinite` or neural_tangents,
            or any function of ``(x1, x2=None)``; or a :class:`sslstep.gram.TwoTowers`.
        x: the first view X of each sample, shape ``(n, ...)``.
        x_prime: the second view X' of each sample, in the same order, shape ``(n, ...)``.
        dim: the embedding dimension d ≤ n.
        initial: embeddings of ``[X, X']`` at initialisation, shape ``(2n, d)``. The prediction
            starts from the equivalent aligned start, which differs from ``initial`` by about the
            size of ``initial``. At any time the error is of the order that
            :func:`sslstep.linear.alignment_exponent` states for this size. :func:`flow` has no such
            error.
        init_scale: instead of ``initial``, the standard deviation α of the initial weights on the
            kernel's features. s(0) then has the typical values of Eq. 21, and U is the identity.
        learning_rate: 0 for gradient flow, otherwise the learning rate of gradient descent: see
            :func:`sslstep.dynamics.singular_value`.
        solver: ``"auto"``, ``"krylov"`` or ``"dense"``: see :func:`contrastive_modes`.
        store_kernel: whether to store K̃, :math:`4 n^2` numbers. Otherwise each product computes it
            again, which is slower and needs little memory.
        batch_size: number of samples in a block of the kernel.
        progress: whether to show progress bars; None: on a terminal.
        key: random key of the Krylov solver's first block; a fixed key by default.

    Returns:
        A pure function ``predict_fn(t=None, x_test=None, *, view=None)``. ``t`` is effective
        time ≥ 0 of any shape ``(...)``; None: the end of training. ``x_test`` holds new points;
        None: the training pairs, X then X'. ``view``, with two towers only, is the view to which
        ``x_test`` belongs, 0 or 1. The result has shape ``(..., n_test, d)``, or ``(..., 2n, d)``
        for the training pairs. It raises ValueError if t is given without ``initial`` or
        ``init_scale``, or if t has the shape of samples and ``x_test`` is None.

    Raises:
        ValueError: if shapes do not fit, values are not finite, ``initial`` and ``init_scale`` are
            both given, or :func:`contrastive_modes` rejects the kernel.
        TypeError: if ``kernel_fn`` does not return floats, or ``dim`` is not an integer.
        sslstep.kernel_pca.ConvergenceError: if the Krylov solver does not converge.

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
    if initial is not None:
        _check.require_shape("initial", initial, (2 * num_pairs, dim), ", (2n, dim)")
    if init_scale is not None:
        _check.require_within("init_scale", init_scale, at_least=0.0)
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
        """Predict the embeddings at effective time t ≥ 0; None: at the end of training.

        The result for new points ``x_test`` has shape (..., n_test, d), with the axes of t first.
        If ``x_test`` is None, it is for the training pairs [X, X'], shape (..., 2n, d). ``view``
        selects one of the kernels of TwoTowers for ``x_test``.
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
    _check.require_shape("rotation", rotation, (values.shape[-1],) * 2)
    return matmul(scaled, rotation.T)
