"""Features to a registered model.

The modules:

    model.py       architectures, and the networks built from them
    splits.py      a split of the features as batches on a device, by the stream
    loop.py        epochs, early stopping, resuming to the same curve
    metrics.py     AUROC, log-loss and accuracy, exact over a split
    checkpoint.py  a run's state on disk, whole at any moment
    bundle.py      a model's folder: weights, architecture, spec
    tracking.py    how MLflow is opened
    registry.py    runs, registered versions, aliases
    champion.py    challenger against champion, on rows neither was trained on
    progress.py    what a person sees meanwhile
    stage.py       all of it, in an order that survives a kill at any moment
"""
