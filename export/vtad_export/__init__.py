"""vtad_export: artefacts for the edge, each proven against torch before it is kept."""
