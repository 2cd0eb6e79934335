"""The numbers of the rules in `base`, apart, so that compiled kernels depend on little (`senna2.compiled`)."""

EPS_2D = 0.3  # px², anti-aliasing dilation
SLOPE_MARGIN = 0.3  # of the image's half width: beyond it the linearisation is frozen
ALPHA_MAX = 0.99
ALPHA_MIN = 1 / 255
TRANSMITTANCE_MIN = 1e-4
DEPTH_STEPS = 1024.0  # a metre
DEPTH_PHASE = 0.37  # of a step, so that depths which are round numbers lie away from the edges of steps
LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709
