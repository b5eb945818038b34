"""Analysis of a model's program (jaxpr): the layers that are linear in a parameter.

A convolution or matrix product is linear in its parameter. The gradient of one sample by that
parameter is a sum of outer products over positions p,

    G[k, c] = sum_p rows[p, k] cotangents[p, c],

where rows are patches of the layer's input and cotangents are the gradient by its output. These two
arrays determine all inner products of gradients. One forward and one backward pass over many
samples gives both: zeros are added to each layer's output, and the derivative is taken by the
zeros. All other uses of parameters (biases, scales, weights that are normalised or used twice) are
differentiated directly.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from sslstep.ntk._sites import Site, conv_site, dot_site

# Calls that are inlined. Calls with custom derivatives are not among them.
_CALLS = ("pjit", "jit", "closed_call", "core_call", "remat2", "checkpoint", "remat")
# Operations that change only the order or precision of entries, and so no inner product.
_SAME_ENTRIES = ("reshape", "transpose", "squeeze", "expand_dims", "rev", "copy", "copy_p")


class Captured(NamedTuple):
    """Arrays of a block of samples that determine its gradients, for D directions of outputs."""

    inputs: tuple[Array, ...]  # input of each site, (samples, *shape)
    cotangents: tuple[Array, ...]  # gradient by the output of each site, (samples, D, *shape)
    gradients: tuple[Array, ...]  # gradient by each other parameter array, (samples, D, size)


@dataclass(frozen=True)
class Program:
    """The model of one sample with inlined calls, split by dependence on the sample."""

    jaxpr: Any
    consts: Sequence[Any]
    num_fixed: int
    once: list[Any]  # equations that depend on parameters and constants only
    each: list[Any]  # equations that depend on the sample
    sites: dict[int, Site]  # by index in `each`
    factors: dict[int, list[Any]]  # scalars that multiply the parameter of a site
    others: list[Any]  # variables of `once` that are differentiated directly
    other_leaves: list[int]  # indices of the parameter arrays that determine `others`

    def capture(
        self, fixed: Sequence[Any], leaves: Sequence[Array], samples: Array, directions: Array
    ) -> Captured:
        """Run one forward pass, and one backward pass for each of the directions (D, d)."""

        def constants(chosen):
            values = list(leaves)
            for position, value in zip(self.other_leaves, chosen, strict=True):
                values[position] = value
            env = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
            env |= dict(zip(self.jaxpr.invars[:-1], [*fixed, *values], strict=True))
            for equation in self.once:
                _evaluate(self.jaxpr, equation, env)
            return env

        chosen = [leaves[position] for position in self.other_leaves]
        env = constants(chosen)

        def others_of(chosen):
            env = constants(chosen)
            return [env[var] for var in self.others]

        others, pull_back = jax.vjp(others_of, chosen)

        def of_sample(sample):
            def model(added, others):
                inner = env | dict(zip(self.others, others, strict=True))
                inner[self.jaxpr.invars[-1]] = sample
                inputs: list[Array] = []
                for number, equation in enumerate(self.each):
                    if number in self.sites:
                        site = self.sites[number]
                        x, weights = (_read(inner, equation.invars[i]) for i in site.operands)
                        if site.apply is None:
                            _evaluate(self.jaxpr, equation, inner)
                        else:
                            inner[equation.outvars[0]] = site.apply(x, weights)
                        inner[equation.outvars[0]] += added[len(inputs)]
                        inputs.append(x)
                    else:
                        _evaluate(self.jaxpr, equation, inner)
                return _read(inner, self.jaxpr.outvars[0]), tuple(inputs)

            zeros = [jnp.zeros(site.y.shape, site.y.dtype) for site in self.sites.values()]
            z, backward, inputs = jax.vjp(model, zeros, others, has_aux=True)
            cotangents, by_others = jax.vmap(backward)(directions.astype(z.dtype))
            scales = [[_read(env, atom) for atom in self.factors[number]] for number in self.sites]
            cotangents = [
                math.prod(scale, start=cotangent)
                for scale, cotangent in zip(scales, cotangents, strict=True)
            ]
            (gradients,) = jax.vmap(pull_back)(by_others) if others else ([],)
            return Captured(
                inputs,
                tuple(cotangents),
                tuple(leaf.reshape(len(directions), -1) for leaf in gradients),
            )

        return jax.vmap(of_sample)(samples)

    def sizes(self, num_directions: int) -> tuple[int, int]:
        """Bytes for one sample: the result of `capture`, and a bound on its working memory.

        The bound is the sum of all intermediate results, plus, for each direction, twice the
        largest intermediate result and twice the gradients that are taken directly.
        """
        sites = self.sites.values()
        invars = self.jaxpr.invars[self.num_fixed :]
        leaves = [invars[position].aval for position in self.other_leaves]
        kept = _bytes(site.x for site in sites)
        kept += num_directions * _bytes([*(site.y for site in sites), *leaves])
        sizes = [_num_bytes(equation) for equation in self.each]
        beside = sum(sizes) + 2 * num_directions * max(sizes, default=0)
        others = _bytes(var.aval for var in self.others)
        return kept, beside + 2 * num_directions * others


def read(apply_fn: Callable[..., Array], fixed: PyTree, params: PyTree, sample: Any) -> Program:
    """Analyse `apply_fn(fixed, params, x)` for one sample; arguments may be shapes only."""
    fixed_leaves, fixed_tree = jax.tree.flatten(fixed)
    leaves, tree = jax.tree.flatten(params)
    num_fixed, num_leaves = len(fixed_leaves), len(leaves)

    def model(*flat):
        fixed = jax.tree.unflatten(fixed_tree, flat[:num_fixed])
        params = jax.tree.unflatten(tree, flat[num_fixed:-1])
        return apply_fn(fixed, params, flat[-1][None])[0]

    shapes = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in fixed_leaves + leaves]
    shapes.append(jax.ShapeDtypeStruct(sample.shape, sample.dtype))
    whole = jax.make_jaxpr(model)(*shapes)
    trained = [num_fixed <= i < num_fixed + num_leaves for i in range(len(shapes))]

    def without_calls(*flat):
        return _without_calls(whole.jaxpr, whole.consts, flat, trained)

    plain = jax.make_jaxpr(without_calls)(*shapes)
    return _split(plain.jaxpr, plain.consts, num_fixed, num_leaves)


def _without_calls(jaxpr, consts, values, trained) -> list[Any]:
    """Evaluate a jaxpr with inlined calls; `trained` flags the values that depend on parameters."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= dict(zip(jaxpr.invars, values, strict=True))
    on_params = {var for var, is_so in zip(jaxpr.invars, trained, strict=True) if is_so}
    platform = set()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        flags = [_is_among(var, on_params) for var in equation.invars]
        inputs = [_read(env, var) for var in equation.invars]
        body = None
        if name in _CALLS:
            body = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        elif name == "platform_index":
            platform.update(equation.outvars)
        elif name == "cond" and equation.invars[0] in platform and any(flags):
            # A computation with a branch for each platform. The default branch is the most likely
            # to use the parameter array as a whole.
            branches = equation.params["branches"]
            names = equation.params.get("branches_platforms") or (None,)
            body = branches[names.index(None) if None in names else -1]
            inputs, flags = inputs[1:], flags[1:]
        if body is None:
            _evaluate(jaxpr, equation, env)
        else:
            inner, inner_consts = getattr(body, "jaxpr", body), getattr(body, "consts", ())
            outputs = _without_calls(inner, inner_consts, inputs, flags)
            env |= dict(zip(equation.outvars, outputs, strict=True))
        if any(flags):
            on_params.update(equation.outvars)
    return [_read(env, var) for var in jaxpr.outvars]


def _split(jaxpr, consts, num_fixed: int, num_leaves: int) -> Program:
    leaves = jaxpr.invars[num_fixed : num_fixed + num_leaves]
    on_params, on_sample = set(leaves), {jaxpr.invars[-1]}
    once, each = [], []
    for equation in jaxpr.eqns:
        reads = {var for var in equation.invars if _is_var(var)}
        if reads & on_sample or _repeats(equation, on_params):
            each.append(equation)
            on_sample.update(equation.outvars)
        else:
            once.append(equation)
            if reads & on_params and equation.primitive.name != "stop_gradient":
                on_params.update(equation.outvars)
    uses = Counter(var for equation in jaxpr.eqns for var in equation.invars if _is_var(var))
    uses.update(var for var in jaxpr.outvars if _is_var(var))
    # Parameter arrays that are used once, and the scalars that multiply them. Reordered and
    # multiplied arrays count too.
    whole: dict[Any, list[Any]] = {var: [] for var in leaves if uses[var] == 1}
    for equation in once:
        found = _whole(equation, whole, on_params)
        if found is not None and uses[equation.outvars[0]] == 1:
            whole[equation.outvars[0]] = found
    sites, factors, met = {}, {}, set()
    for number, equation in enumerate(each):
        site = _site(equation, whole, on_sample)
        if site is not None:
            weights = equation.invars[site.operands[1]]
            sites[number], factors[number] = site, whole[weights]
            met.add(weights)
    read_later = [var for equation in each for var in equation.invars] + list(jaxpr.outvars)
    others = [v for v in dict.fromkeys(filter(_is_var, read_later)) if v in on_params - met]
    needed = set(others)
    for equation in reversed(once):
        if needed & set(equation.outvars):
            needed.update(filter(_is_var, equation.invars))
    other_leaves = [position for position, leaf in enumerate(leaves) if leaf in needed]
    return Program(jaxpr, consts, num_fixed, once, each, sites, factors, others, other_leaves)


def _site(equation, whole, on_sample) -> Site | None:
    """Return the site of an equation that is linear in a parameter array used nowhere else.

    Otherwise return None.
    """
    name = equation.primitive.name
    if name not in ("conv_general_dilated", "dot_general"):
        return None
    ends = (*equation.invars, equation.outvars[0])
    if any(jnp.issubdtype(var.aval.dtype, jnp.complexfloating) for var in ends):
        return None  # the contraction is for real numbers
    if any(var.aval.size == 0 for var in ends):
        return None
    for weights, x in ((1, 0), (0, 1)):
        if _is_among(equation.invars[weights], whole) and _is_among(equation.invars[x], on_sample):
            make = conv_site if name == "conv_general_dilated" else dot_site
            return make(equation, x, weights)
    return None


def _repeats(equation, on_params) -> bool:
    """Return whether the equation repeats a parameter, as for a bias that is added everywhere."""
    if equation.primitive.name != "broadcast_in_dim":
        return False
    source = equation.invars[0]
    return _is_among(source, on_params) and equation.outvars[0].aval.size > source.aval.size


def _whole(equation, whole, on_params) -> list[Any] | None:
    """Return the scalar factors if the equation's output is a parameter array times scalars.

    Otherwise return None. The array may be reordered or converted to another floating type.
    """
    name, target = equation.primitive.name, equation.outvars[0]
    for place, source in enumerate(equation.invars):
        if not _is_among(source, whole):
            continue
        others = [*equation.invars[:place], *equation.invars[place + 1 :]]
        factors = whole[source]
        if name == "mul" and others[0].aval.size == 1 and not _is_among(others[0], on_params):
            return [*factors, others[0]]
        floating = jnp.issubdtype(target.aval.dtype, jnp.floating)
        same = name in _SAME_ENTRIES or (name == "convert_element_type" and floating)
        if same or (name == "broadcast_in_dim" and source.aval.size == target.aval.size):
            return factors
    return None


def _bytes(arrays: Iterable[Any]) -> int:
    """Return the bytes of arrays of these shapes and dtypes."""
    return sum(array.size * array.dtype.itemsize for array in arrays)


def _num_bytes(equation) -> int:
    """Return the bytes of all results of an equation, including those inside loops and calls."""
    total = _bytes(var.aval for var in equation.outvars if hasattr(var.aval, "dtype"))
    repeats = equation.params.get("length", 1)
    return int(total + repeats * sum(_num_bytes(e) for b in bodies(equation) for e in b.eqns))


def bodies(equation: Any) -> list[Any]:
    """Return the programs (jaxprs) inside an equation, such as the bodies of loops and calls."""
    kinds = core.Jaxpr | core.ClosedJaxpr
    settings = list(equation.params.values())
    leaves = jax.tree.leaves(settings, is_leaf=lambda value: isinstance(value, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds)]


def _is_var(atom: Any) -> bool:
    return atom is not None and not isinstance(atom, core.Literal)


def _is_among(atom: Any, variables: Any) -> bool:
    return _is_var(atom) and atom in variables


def _read(env: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else env[atom]


def _evaluate(jaxpr: Any, equation: Any, env: dict[Any, Any]) -> None:
    """Evaluate one equation and add its results to `env`."""
    inputs = list(dict.fromkeys(filter(_is_var, equation.invars)))
    alone = jaxpr.replace(
        constvars=[], invars=inputs, outvars=list(equation.outvars), eqns=[equation]
    )
    outputs = jax.core.eval_jaxpr(alone, (), *(env[var] for var in inputs))
    env |= dict(zip(equation.outvars, outputs, strict=True))
