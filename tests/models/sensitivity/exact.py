"""An oracle: the layers that may come before the noise, evaluated with 50 digits."""

import mpmath
import numpy as np
import torch
from torch import nn

from models.networks.resnet import Residual

MP = mpmath.MPContext()
MP.dps = 50
ZERO, ONE = MP.mpf(0), MP.mpf(1)


def evaluate(module, values):
    """Return the module's output for an object array of mpmath numbers, without a batch."""
    match module:
        case nn.Sequential():
            for layer in module:
                values = evaluate(layer, values)
            return values
        case Residual():
            return evaluate(module.branch, values) + evaluate(module.shortcut, values)
        case nn.Identity() | nn.Dropout():
            return values
        case nn.Flatten():
            return values.ravel()
        case nn.Linear():
            return exact(module.weight) @ values + exact(module.bias)
        case nn.Conv2d():
            return _convolution(module, values)
        case nn.BatchNorm2d():
            return np.stack([_normalised(module, i, plane) for i, plane in enumerate(values)])
        case nn.AvgPool2d():
            return _windows(values, module.kernel_size, module.stride, module.padding, _mean)
        case nn.MaxPool2d():
            return _windows(values, module.kernel_size, module.stride, 0, max)
        case nn.AdaptiveAvgPool2d(output_size=1):
            return np.array([[[_mean(list(plane.ravel()))]] for plane in values])
    return np.vectorize(lambda value: _activated(module, value), otypes=[object])(values)


def exact(tensor):
    """The exact values of numbers in any format."""
    values = tensor.detach().double().numpy()
    return np.vectorize(MP.mpf, otypes=[object])(values)


def _activated(module, value):
    match module:
        case nn.Hardtanh():  # ReLU6, too
            return min(max(value, MP.mpf(module.min_val)), MP.mpf(module.max_val))
        case nn.ReLU():
            return max(value, ZERO)
        case nn.LeakyReLU():
            return value if value > 0 else value * MP.mpf(module.negative_slope)
        case nn.Tanh():
            return MP.tanh(value)
        case nn.Sigmoid():
            return ONE / (ONE + MP.exp(-value))
    raise TypeError(type(module))


def _normalised(module, channel, plane):
    mean, variance, weight, bias = (
        MP.mpf(part[channel].item())
        for part in (module.running_mean, module.running_var, module.weight, module.bias)
    )
    return (plane - mean) / MP.sqrt(variance + MP.mpf(module.eps)) * weight + bias


def _mean(values):
    return sum(values) / len(values)


def _windows(values, size, stride, padding, function):
    padded = np.pad(values, ((0, 0), *[(padding, padding)] * 2), constant_values=ZERO)
    outputs = [(length - size) // stride + 1 for length in padded.shape[1:]]
    found = np.empty((len(values), *outputs), dtype=object)
    for channel, row, column in np.ndindex(found.shape):
        window = padded[channel, row * stride :, column * stride :][:size, :size]
        found[channel, row, column] = function(list(window.ravel()))
    return found


def _convolution(module, values):
    weight = exact(module.weight)
    (stride, _), (padding, _), (dilation, _) = module.stride, module.padding, module.dilation
    padded = np.pad(values, ((0, 0), *[(padding, padding)] * 2), constant_values=ZERO)
    outputs, inputs, size, _ = weight.shape
    span = dilation * (size - 1) + 1
    shape = [(length - span) // stride + 1 for length in padded.shape[1:]]
    found = np.empty((outputs, *shape), dtype=object)
    bias = [ZERO] * outputs if module.bias is None else exact(module.bias)
    for output, row, column in np.ndindex(found.shape):
        start = output // (outputs // module.groups) * inputs
        window = padded[start : start + inputs, row * stride :, column * stride :]
        window = window[:, :span:dilation, :span:dilation]
        found[output, row, column] = (window * weight[output]).sum() + bias[output]
    return found


def torch_to_exact(tensor):
    """A picture [1, c, h, w] as exact numbers [c, h, w]."""
    return exact(torch.as_tensor(tensor)[0])
