"""Features to a registered model.

The modules:

    job.py         one training, as it was asked for
    launch.py      starts the ranks, by torchrun or by Spark, and starts them again
    worker.py      what each rank runs
    causes.py      what ended a rank, and the first cause among many
    guard.py       a request to stop, and a watch over progress
    ranks.py       the processes that train together, and how they agree
    networks/      families of networks, built from an architecture
    tasks/         what is learned: a module a task, with its label, losses, metrics, words
    objective.py   a task with the loss, the metric and the weights that were chosen
    class_weights.py  what the rows of each class count in the loss
    metrics.py     a task's metrics, exact over a split and all ranks
    optimiser.py   optimisers by name
    schedule.py    the learning rate over the steps
    splits.py      a split of the features as batches on a device, by the stream
    loop.py        epochs, early stopping, resuming to the same curve
    checkpoint.py  a run's state on disk, whole at any moment
    bundle.py      a model's folder: weights, architecture, spec
    tracking.py    how MLflow is opened
    registry.py    runs, registered versions, aliases
    champion.py    challenger against champion, on rows neither was trained on
    progress.py    what a person sees meanwhile
    stage.py       all of it, in an order that survives a kill at any moment
"""
