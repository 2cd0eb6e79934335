"""Torch only: the vision-language model, the decision adapter, the end-to-end planner and the dual system."""
