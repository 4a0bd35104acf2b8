"""Small image classifiers: `forward(pixel_values) -> logits`. No torch is imported here."""
