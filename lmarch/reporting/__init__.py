"""Tables, figures and the HTML report, drawn from stored results only: nothing here runs a model.

`results` are the rows of `results.jsonl`, one dict a method and window length, and `run` is the record of the run.
`figures` (and `html`, which embeds them) import matplotlib; no other module does.
"""
