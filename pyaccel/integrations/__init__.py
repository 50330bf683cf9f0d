"""Other peoples' schedulers, pipelines and models."""
