"""`make probes`: what a trained model's answer owes to each ingredient of the prompt, and whether a title can bend it.

`eestudy.wordings` are titles that instruct and titles that do not, `eestudy.defences` what could be done about them;
`variants` are the changed prompts, `reading` the scores on them, `trained_apart` the models of `make ablations` that
are attacked, too. Nothing is trained. `eestudy.probe_results` reads the tables for the notebooks.
"""
