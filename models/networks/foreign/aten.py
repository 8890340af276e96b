"""The operators of PyTorch that an exported program may call, each with its rule about rows.

A program may use no operator, overload or argument that is not on this list. No operator on it
draws random numbers, reads files or memory that was not written, or derives the shape of its output
from a picture's values. :mod:`models.networks.foreign.rows` is the proof that rests on the list.
"""

import operator
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from models.networks.foreign import row_rules as rules
from models.networks.foreign.rows import Place, RefusedError, Rule

PREFIX = "torch.ops.aten."
# Arithmetic of sizes, which depend on how many pictures there are.
_SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod")
}
# Checks that the exporter inserted, for the sizes and formats that it saw.
_CHECKS = (f"{PREFIX}_assert", f"{PREFIX}sym_constrain_range")

_UNARY = """
abs neg relu relu6 sigmoid tanh gelu silu mish softplus hardswish hardsigmoid hardtanh leaky_relu
elu selu celu log_sigmoid hardshrink softshrink threshold exp exp2 expm1 log log2 log10 log1p sqrt
rsqrt square reciprocal sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc ceil floor
round round.decimals trunc frac sign sgn isnan isinf isfinite logical_not bitwise_not nan_to_num
clamp clamp.Tensor clamp_min clamp_min.Tensor clamp_max clamp_max.Tensor clip
"""
_BINARY = """
_prelu_kernel add.Tensor add.Scalar sub.Tensor sub.Scalar mul.Tensor mul.Scalar div.Tensor
div.Scalar div.Tensor_mode div.Scalar_mode rsub.Tensor rsub.Scalar floor_divide floor_divide.Scalar
remainder.Tensor remainder.Scalar fmod.Tensor fmod.Scalar pow.Tensor_Tensor pow.Tensor_Scalar
pow.Scalar maximum minimum fmax fmin atan2 hypot logaddexp xlogy.Tensor copysign.Tensor eq.Tensor
eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
ge.Scalar logical_and logical_or logical_xor bitwise_and.Tensor bitwise_and.Scalar bitwise_or.Tensor
bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar where.self where.ScalarSelf
where.ScalarOther where.Scalar masked_fill.Scalar masked_fill.Tensor lerp.Scalar lerp.Tensor addcmul
addcdiv max.other min.other copy fill.Scalar fill.Tensor zero clone lift_fresh_copy alias_copy
detach_copy _to_copy
"""
# These may return their argument itself.
_SAME = """
to.dtype to.dtype_layout to.device contiguous alias detach lift_fresh
"""
_ALONG = """
softmax.int log_softmax.int _softmax _log_softmax cumsum cumprod logcumsumexp sort sort.stable
argsort argsort.stable topk glu cummax cummin
"""
_REDUCED = """
sum.dim_IntList mean.dim nansum nanmean amax amin logsumexp prod.dim_int var.dim var.correction
std.dim std.correction var_mean.dim var_mean.correction std_mean.dim std_mean.correction max.dim
min.dim argmax argmin median.dim nanmedian.dim kthvalue all.dim all.dims any.dim any.dims
linalg_vector_norm norm.ScalarOpt_dim
"""
_MOVED = """
permute permute_copy transpose.int transpose_copy.int swapaxes swapdims movedim.int movedim.intlist
t t_copy mT numpy_T
"""
_SPLIT = """
split.Tensor split.sizes split_with_sizes split_copy.Tensor split_with_sizes_copy
unsafe_split.Tensor tensor_split.sections chunk unsafe_chunk
"""
_PADDED = """
pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d
"""
_CONVOLVED = """
conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding conv_transpose1d
conv_transpose2d.input conv_transpose3d.input convolution
"""
_POOLED = """
max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d
avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d upsample_nearest1d upsample_nearest1d.vec upsample_nearest2d
upsample_nearest2d.vec upsample_nearest3d upsample_nearest3d.vec upsample_linear1d
upsample_linear1d.vec upsample_bilinear2d upsample_bilinear2d.vec upsample_bicubic2d
upsample_bicubic2d.vec _upsample_bilinear2d_aa _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa
_upsample_bicubic2d_aa.vec _upsample_nearest_exact2d _upsample_nearest_exact2d.vec
"""
_BATCH_NORM = """
batch_norm native_batch_norm _batch_norm_no_update _native_batch_norm_legit
_native_batch_norm_legit.no_stats _native_batch_norm_legit_no_training
"""
# Allowed only for constants: neither a pass's rows nor their number may be an argument.
_CONSTANT = """
scalar_tensor arange arange.start arange.start_step linspace eye eye.m outer dot meshgrid
meshgrid.indexing tril_indices triu_indices linalg_norm norm.Scalar sum mean prod max min all any
var std median
"""
_MADE = "dtype layout device pin_memory"


_LISTED: dict[str, Rule] = {}
_EVALUATION = (("train", False),)
_STATISTICS = "weight bias running_mean running_var"


def _add(names: str, place: Place, rows: str | None, others: str | None, **more: Any) -> None:
    """Give each of ``names`` the rule; names of arguments are separated by spaces."""
    rule = Rule(
        place,
        None if rows is None else tuple(rows.split()),
        tuple(more.pop("sizes", "").split()),
        None if others is None else tuple(others.split()),
        **more,
    )
    for name in names.split():
        _LISTED[name if "." in name else f"{name}.default"] = rule


# Element by element, and tensors of one value.
_add(f"{_UNARY} {_BINARY}", rules.pointwise, None, None)
_add(_SAME, rules.pointwise, None, None, view=True)
_add("type_as", rules.like, "self other", "", view=True)
_add("zeros_like ones_like full_like", rules.like, "self", f"fill_value memory_format {_MADE}")
_add("prelu", rules.prelu, "self", "weight")
_add(
    "dropout feature_dropout alpha_dropout feature_alpha_dropout",
    rules.pointwise,
    "input self",  # its name in the form that writes
    "p",
    must=_EVALUATION,
    view=True,
)
_add("native_dropout", rules.dropped, "input", "p", always=True, must=_EVALUATION, view=True)
_add(
    "rrelu", rules.pointwise, "self", "lower upper", must=(("training", False), ("generator", None))
)
_add("zeros ones full", rules.filled, "", f"fill_value names {_MADE}", sizes="size")
_add("new_zeros new_ones new_full", rules.filled, "self", f"fill_value {_MADE}", sizes="size")
_add(_CONSTANT, rules.constant, "", None)

# Along axes.
_add(_ALONG, rules.along, "self", "dim dtype half_to_float descending stable k largest sorted")
_add(_REDUCED, rules.reduce_axes, "self", "dim keepdim dtype unbiased correction ord p k")
_add("flip", rules.turned, "self", "dims")
_add("roll", rules.turned, "self", "dims shifts")
_add("tril triu", rules.triangle, "self", "diagonal")
_add("index.Tensor", rules.indexed, "self", "indices")
_add("index_select", rules.index_selected, "self", "dim index")
_add("gather", rules.gathered, "self index", "dim sparse_grad")
_add("embedding", rules.embedded, "indices", "weight padding_idx scale_grad_by_freq sparse")

# Shapes.
_add(
    "view reshape _unsafe_view view_copy", rules.reshaped, "self", "", sizes="size shape", view=True
)
_add("view_as reshape_as", rules.reshaped_like, "self other", "", view=True)
_add("flatten.using_ints", rules.flattened, "self", "start_dim end_dim", view=True)
_add("unflatten.int", rules.unflattened, "self", "dim", sizes="sizes", view=True)
_add(_MOVED, rules.moved, "self", "dims dim0 dim1 axis0 axis1 source destination", view=True)
_add("unsqueeze unsqueeze_copy", rules.unsqueezed, "self", "dim", view=True)
_add(
    "squeeze squeeze.dim squeeze.dims squeeze_copy squeeze_copy.dim squeeze_copy.dims",
    rules.squeezed,
    "self",
    "dim",
    view=True,
)
_add("expand expand_copy", rules.expanded, "self", "implicit", sizes="size", view=True)
_add("expand_as", rules.expanded_like, "self other", "", view=True)
_add("repeat", rules.repeated, "self", "", sizes="repeats")
_add("repeat_interleave.self_int", rules.repeated_each, "self", "repeats dim output_size")
_add("unfold", rules.unfolded, "self", "dimension size step", view=True)
_add("sym_size.int sym_numel", rules.constant, "self", "dim")

# Parts.
_add("select.int select_copy.int", rules.selected, "self", "dim index", view=True)
_add(
    "slice.Tensor slice_copy.Tensor", rules.sliced, "self", "dim step", sizes="start end", view=True
)
_add("narrow", rules.sliced, "self", "dim", sizes="start length", view=True)
_add(_SPLIT, rules.split, "self", "dim sections chunks", sizes="split_size split_sizes", view=True)
_add("unbind.int unbind_copy.int", rules.unbound, "self", "dim", view=True)
_add("cat", rules.joined, "tensors", "dim")
_add("stack", rules.stacked, "tensors", "dim")
_add(_PADDED, rules.padded, "self", "pad padding mode value", view=True)
_add("slice_scatter", rules.scattered, "self src", "dim step", sizes="start end")
_add("select_scatter", rules.scattered, "self src", "dim index")

# Sums of products.
_add("mm matmul bmm mv", rules.multiplied, "self other mat2 vec", "")
_add("addmm baddbmm", rules.multiplied_and_added, "self mat1 mat2 batch1 batch2", "beta alpha")
_add("linear", rules.linear, "input", "weight bias")
_add("einsum", rules.summed, "tensors", "equation path")
_add(
    "scaled_dot_product_attention",
    rules.attended,
    "query key value attn_mask",
    "is_causal scale",
    must=(("dropout_p", 0.0), ("enable_gqa", False)),
)
_add(
    "_scaled_dot_product_flash_attention_for_cpu",
    rules.attended_with_sums,
    "query key value attn_mask",
    "is_causal scale",
    must=(("dropout_p", 0.0),),
    always=True,
)
_add(
    _CONVOLVED,
    rules.convolved,
    "input",
    "weight bias stride padding dilation groups transposed output_padding",
)
_add(
    _POOLED,
    rules.pooled,
    "self input",
    "kernel_size stride padding dilation ceil_mode count_include_pad divisor_override "
    "output_size align_corners scale_factors scales scales_d scales_h scales_w",
)
_add("pixel_shuffle pixel_unshuffle", rules.shuffled, "self", "upscale_factor downscale_factor")
_add("native_channel_shuffle", rules.channels_shuffled, "self", "groups")
_add("channel_shuffle", rules.channels_shuffled, "self", "groups", view=True)
_add("im2col", rules.columns, "self", "kernel_size dilation padding stride")
_add(
    "grid_sampler grid_sampler_2d",
    rules.sampled,
    "input grid",
    "interpolation_mode padding_mode align_corners",
)

# Normalisation.
_add(
    _BATCH_NORM,
    rules.batch_normalised,
    f"input {_STATISTICS}",
    "training momentum eps cudnn_enabled",
    always=True,
)
_add(
    "instance_norm",
    rules.instance_normalised,
    "input",
    f"{_STATISTICS} use_input_stats momentum eps cudnn_enabled",
    always=True,
)
_add("_weight_norm _weight_norm_interface", rules.weight_normalised, "", "v g dim", always=True)
_add(
    "layer_norm rms_norm",
    rules.layer_normalised,
    "input",
    "normalized_shape weight bias eps cudnn_enable",
)
_add(
    "native_layer_norm",
    rules.layer_normalised_with_statistics,
    "input",
    "normalized_shape weight bias eps",
)
_add("group_norm", rules.group_normalised, "input", "num_groups weight bias eps cudnn_enabled")
_add(
    "native_group_norm",
    rules.group_normalised_by_sizes,
    "input",
    "weight bias C HxW group eps",
    sizes="N",
)
_add(
    "lstm.input gru.input rnn_tanh.input rnn_relu.input",
    rules.recurrent,
    "input hx",
    "params has_biases num_layers dropout bidirectional batch_first",
    must=(("train", False),),
)


def rule(called: Any) -> Rule:
    """Return the rule of an operator; a form that writes in place has that of its plain form.

    Raises:
        RefusedError: it is not on the list.
    """
    name, _, overload = str(called._name).removeprefix("aten::").partition(".")
    overload = overload or "default"
    found = _LISTED.get(f"{name}.{overload}")
    if found is None and called._schema.is_mutable and name.endswith("_"):
        found = _LISTED.get(f"{name[:-1]}.{overload}")
        # Only these do the same to each element in place.
        found = found if found and found.place is rules.pointwise else None
    if found is None:
        raise RefusedError(f"calls {PREFIX}{name}.{overload}, {_why_not(name, called)}")
    return found


def _why_not(name: str, called: Any) -> str:
    """Say why an operator is not on the list."""
    tags, returns = called.tags, [str(value.type) for value in called._schema.returns]
    if "empty" in name or "strided" in name or name.startswith("resize"):
        return "which is not accepted: it may return memory that was never written"
    if not all("Tensor" in kind for kind in returns):
        return (
            "which does not return a tensor: what follows would depend on all pictures of a batch"
        )
    if torch.Tag.dynamic_output_shape in tags:
        return "which is not accepted: its output's shape depends on all pictures of a batch"
    if torch.Tag.nondeterministic_seeded in tags and not name.startswith("_"):
        return (
            "which draws random numbers; the only chance in an answer may be the mechanism's noise"
        )
    if called._schema.is_mutable:
        return "which writes into its arguments"
    return (
        "which is not accepted: it is not on the list of operators that are proven to keep the "
        "pictures of a batch apart; write that part with others, or give the network as "
        "module:function"
    )


def is_check(target: str) -> bool:
    """Whether ``target`` computes nothing and only checks sizes or formats."""
    return target.startswith(_CHECKS)


def function(target: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the operator that a graph calls ``target``.

    Args:
        target: as ``torch.export`` writes it, ``torch.ops.aten.relu.default``.
        arguments: its arguments, by name.

    Raises:
        ValueError: a classifier may not call it.
    """
    if target in _SIZES:
        return _SIZES[target]
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if match is None:
        raise ValueError(f"calls {target}; only operators of {PREFIX[:-1]} are accepted")
    name, overload = match.groups()
    if (f"aten::{name}" if overload == "default" else f"aten::{name}.{overload}") not in _known():
        raise ValueError(f"calls {target}, which this PyTorch does not have")
    called: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    must = dict(rule(called).must)
    chance = any(arguments.get(mode) is True for mode in ("train", "training") if mode in must)
    if chance or (arguments.get("training") is True and arguments.get("running_mean") is not None):
        raise ValueError(
            f"calls {target} in training mode, which makes an answer depend on chance or on the "
            "pictures beside it; call eval() before exporting"
        )
    return called


@cache
def _known() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())
