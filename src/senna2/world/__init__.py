"""3DGS clips, their renderer and simulator. Never imports `senna2.model`, nor torch outside `render/reference.py`."""
