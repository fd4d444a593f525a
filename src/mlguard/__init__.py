"""Security guards for FastAPI services that serve machine-learning models."""
