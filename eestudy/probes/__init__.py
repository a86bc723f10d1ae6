"""`make probes`: what a trained model's answer owes to each ingredient of the prompt, and whether a title can bend it.

`wordings` are titles that instruct and titles that do not, `variants` the changed prompts, `reading` the scores on
them. Nothing is trained. `eestudy.probe_results` reads the tables for the notebooks.
"""
