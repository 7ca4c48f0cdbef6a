"""How fast other detectors are beside ours: their graphs by anomalib, timed in turns with an export of vtad."""
