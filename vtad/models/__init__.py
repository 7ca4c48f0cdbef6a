"""The networks: the autoencoder, its scorers and their fusion, SSIM, the paper's model, and the detector that is exported.

May import `backbones`, the configuration and the run folder.
"""
