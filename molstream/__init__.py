"""Raw molecule files to a pretrained, published 2D/3D molecular encoder, at any scale."""
