"""Exports in MLflow: certificates and the model itself on the run's page, and the model in the registry if that is asked for.

May import the proof and vtad.tracking; mlflow late.
"""
