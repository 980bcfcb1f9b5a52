"""The stage `report`: all tables and the model's run, as one page.

The modules:

    inputs.py      what the page is about: tables at pinned versions
    model.py       the model's run in MLflow: epochs, metrics, provenance
    quality.py     the measures that `clean` left in the table `quality`
    bins.py        histograms by quantiles, and the population stability index
    truth.py       pairs of predicted and observed, whatever the task
    scores.py      calibration and drift of the scores, aggregated on Spark
    classes.py     right and wrong by class
    spread.py      quantiles of an anomaly score
    drift.py       drift of the features, aggregated on Spark
    wording.py     what the page calls metrics
    figures.py     numbers as people read them
    measured.py    what was measured, together
    charts/        the charts: one room each, and a table of them
    findings.py    what deserves a look, in sentences
    page.py        all of it into the templates
    stage.py       measures, renders, and puts the page in its place
"""
