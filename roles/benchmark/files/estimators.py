# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""scikit-learn estimators, stock or patched by Extension for Scikit-learn, on the 1797 handwritten digits that scikit-learn carries.

estimators.py stock|patched ESTIMATOR SECONDS
"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import workload
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

# name: (module below sklearn and sklearnex, arguments)
ESTIMATORS = {
    "RandomForestClassifier": ("ensemble", {"n_estimators": 100, "random_state": 0, "n_jobs": -1}),
    "KMeans": ("cluster", {"n_clusters": 10, "n_init": 1, "random_state": 0}),
    "KNeighborsClassifier": ("neighbors", {"algorithm": "brute"}),
    "LogisticRegression": ("linear_model", {"max_iter": 100}),
    "PCA": ("decomposition", {"n_components": 16}),
    "SVC": ("svm", {}),
}


def main():
    kind, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    place, arguments = ESTIMATORS[name]
    make = getattr(importlib.import_module(f"{'sklearnex' if kind == 'patched' else 'sklearn'}.{place}"), name)
    data = load_digits()
    train, test, train_labels, test_labels = train_test_split(data.data.astype(np.float32), data.target, test_size=0.3, random_state=0)
    classifies = name not in ("KMeans", "PCA")

    def fit():
        estimator = make(**arguments).fit(train, train_labels)
        if name == "KNeighborsClassifier":
            # Its fitting only keeps the data; the work is in the prediction.
            estimator.predict(test)
        return estimator

    accuracy = round(float(fit().score(test, test_labels)), 4) if classifies else None
    workload.measure(fit, seconds, accuracy=accuracy)


if __name__ == "__main__":
    main()
