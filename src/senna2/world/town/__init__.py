"""The procedural town: streets, road users and scenario families made of 3D gaussians, with an expert driver."""
