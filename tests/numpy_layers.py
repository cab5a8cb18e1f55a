"""A network in NumPy float64, for steps computed by hand."""

from __future__ import annotations

import numpy as np


class Layers:
    """An MLP in NumPy float64 with a hand-written backward pass."""

    def __init__(self, mlp):
        self.weights = [np.asarray(weight, np.float64) for weight in mlp.weights]
        self.biases = [np.asarray(bias, np.float64) for bias in mlp.biases]
        self.activation = mlp.activation

    def forward(self, rows):
        self.inputs = []
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            self.inputs.append(rows)
            rows = rows @ weight + bias
            if index < len(self.weights) - 1:
                rows = np.maximum(rows, 0) if self.activation == "relu" else np.tanh(rows)
        return rows

    def backward(self, gradient):
        """Gradients of weights and biases, and of the input, for a gradient of the output."""
        weights, biases = [], []
        for index in reversed(range(len(self.weights))):
            weights.insert(0, self.inputs[index].T @ gradient)
            biases.insert(0, gradient.sum(axis=0))
            gradient = gradient @ self.weights[index].T
            if index:
                after = self.inputs[index]
                gradient = gradient * ((after > 0) if self.activation == "relu" else 1 - after**2)
        return weights, biases, gradient

    def adam_first_step(self, weights, biases, learning_rate):
        """Adam from zero moments: the bias-corrected moments are the gradient and its square."""
        for values, gradients in ((self.weights, weights), (self.biases, biases)):
            for index, gradient in enumerate(gradients):
                values[index] = values[index] - learning_rate * gradient / (np.abs(gradient) + 1e-8)

    def copy(self):
        return type(self)(self)

    def assert_equals(self, mlp, tolerance=2e-6):
        for ours, theirs in zip([*self.weights, *self.biases], [*mlp.weights, *mlp.biases], strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=tolerance)
