"""Results as pictures: the heatmap over the source, the panel, the frames of a video, text, shrinking, encoding.

Arrays in, arrays or encoded bytes out. May import verdict and contract.
"""
