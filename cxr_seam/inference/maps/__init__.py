"""Maps that show where the evidence for a finding is, by name: CAM, refined CAM, LayerCAM, Grad-CAM, their mean."""
