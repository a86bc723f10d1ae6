"""`make retrievers`: every way to find evidence beside the graph's, in accuracy, time and memory, on the same rows.

`material` reads a run, `vectors` makes users and items comparable, `reading` lets the trained LLM read what each way
found, `lookups` times requests, `table` puts it together. `eestudy.retriever.told` reads the table for notebook 03.
"""
