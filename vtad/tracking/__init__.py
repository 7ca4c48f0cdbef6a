"""Run folders in MLflow: what a training, an evaluation and an export made is sent to a store, and what cannot be sent waits.

May import the loop's interruption, what is below it, and the runtime's contract. The only room that imports mlflow, and late.
"""
