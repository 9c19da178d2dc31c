"""Stages of an experiment on Ray, run as a DAG and remembered in MLflow."""
