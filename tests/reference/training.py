#!/usr/bin/env python3
"""Writes training.json: what scikit-learn makes of a small problem, for the tests in src/train.

    .venv/bin/python tests/reference/training.py
"""

import json
import pathlib

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage, oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

SAMPLES, WIDTH, CLASSES = 48, 12, 3
INVERSE_PENALTY = 2.0


def objective(model, x, y):
    """mean loss + |W|^2 / (2 C n), as scikit-learn minimises it; one vector of weights for two classes."""
    probabilities = model.predict_proba(x)
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
    return loss + (model.coef_**2).sum() / (2 * INVERSE_PENALTY * len(y))


def main():
    rng = np.random.default_rng(7)
    y = np.arange(SAMPLES) % CLASSES
    mixing = rng.standard_normal((WIDTH, WIDTH))
    x = rng.standard_normal((SAMPLES, WIDTH)) @ mixing + 1.5 * rng.standard_normal((CLASSES, WIDTH))[y]
    x = x.astype(np.float32)
    logistic = LogisticRegression(C=INVERSE_PENALTY, tol=1e-10, max_iter=100_000)
    three = logistic.fit(x, y)
    result = {
        "width": WIDTH,
        "x": x.ravel().tolist(),
        "y": y.tolist(),
        "inverse_penalty": INVERSE_PENALTY,
        "logistic": {
            "objective": objective(three, x.astype(float), y),
            "weights": three.coef_.ravel().tolist(),
        },
    }
    two = y < 2
    result["logistic_of_two"] = objective(logistic.fit(x[two], y[two]), x[two].astype(float), y[two])
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x.astype(float), y)
    result["lda"] = {"weights": lda.coef_.ravel().tolist(), "bias": lda.intercept_.tolist()}
    means = np.stack([x[y == label].mean(0) for label in range(CLASSES)])
    residuals = x.astype(float) - means[y]
    result["ledoit_wolf"] = ledoit_wolf_shrinkage(residuals, assume_centered=True)
    result["oracle_approximating"] = oas(residuals, assume_centered=True)[1]
    file = pathlib.Path(__file__).with_name("training.json")
    file.write_text(json.dumps(result, indent=0) + "\n")


if __name__ == "__main__":
    main()
